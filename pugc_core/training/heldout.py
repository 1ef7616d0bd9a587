"""The figures of a policy on pairs that it was not trained on: over pairs, each with its interval and their number."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import numpy.typing as npt

from pugc_core import intervals
from pugc_core.intervals import Estimate
from pugc_core.training.pairwise import Measured


def figures(pairs: Measured, start: npt.NDArray[np.float64] | None) -> dict[str, Estimate]:
    """Accuracy (the share of pairs whose chosen answer has the larger reward), mean margin, mean gain (each pair's
    margin less what it was under the start model) and mean loss.

    `pairs` has loss, reward of chosen and reward of rejected per pair; shape (n, 3), n > 0. `start` has the margins of
    the same pairs under the start model; shape (n,). Without it there is no gain.
    """
    losses, chosen, rejected = pairs.T
    margins = chosen - rejected
    return {
        "accuracy": intervals.share((chosen > rejected).tolist()),
        "margin": intervals.bootstrap(margins.tolist(), fmean),
        **({} if start is None else {"gain": intervals.bootstrap((margins - start).tolist(), fmean)}),
        "loss": intervals.bootstrap(losses.tolist(), fmean),
    }
