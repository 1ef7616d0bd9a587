"""The figures of a policy on pairs that it was not trained on: over pairs, each with its interval and their number."""

from __future__ import annotations

from statistics import fmean

from pugc_core import intervals
from pugc_core.intervals import Estimate
from pugc_core.training.pairwise import Measured


def figures(pairs: Measured) -> dict[str, Estimate]:
    """Accuracy (the share of pairs whose chosen answer has the larger reward), mean margin and mean loss.

    `pairs` has loss, reward of chosen and reward of rejected per pair; shape (n, 3), n > 0.
    """
    losses, chosen, rejected = pairs.T
    return {
        "accuracy": intervals.share((chosen > rejected).tolist()),
        "margin": intervals.bootstrap((chosen - rejected).tolist(), fmean),
        "loss": intervals.bootstrap(losses.tolist(), fmean),
    }
