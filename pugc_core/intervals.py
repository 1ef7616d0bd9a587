"""95% intervals for the figures that are reported: of a share, and of any statistic by bootstrap."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T")
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, and how many samples it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def share(hits: Sequence[bool]) -> Estimate:
    """The share of hits, with the interval of Wilson (1927), which also holds near 0 and 1."""
    return share_of(sum(hits), len(hits))


def share_of(hits: int, n: int) -> Estimate:
    """The same of `hits` among `n`."""
    if not n:
        raise ValueError("a share of nothing")
    p = hits / n
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * (p * (1 - p) / n + _Z**2 / (4 * n**2)) ** 0.5
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap(
    samples: Sequence[T], statistic: Callable[[Sequence[T]], float], resamples: int = 1000, seed: int = 0
) -> Estimate:
    """The statistic of the samples, with the percentile interval over `resamples` drawings with replacement."""
    if not samples:
        raise ValueError("a statistic of nothing")
    rng = random.Random(seed)
    drawn = sorted(statistic(rng.choices(samples, k=len(samples))) for _ in range(resamples))
    at = round(0.025 * (resamples - 1))
    return Estimate(statistic(samples), drawn[at], drawn[-1 - at], len(samples))


def bootstrap_totals(
    parts: npt.NDArray[np.float64],
    statistic: Callable[[npt.NDArray[np.float64]], float],
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`bootstrap` for a statistic of totals (a mean, a ratio, a correlation), quick for tens of thousands of samples.

    `parts` has a row per sample and a column per total; `statistic` takes the totals. Where it is not a number for a
    resample (a correlation of what does not vary), that resample is left out.
    """
    import numpy as np

    n = len(parts)
    if not n:
        raise ValueError("a statistic of nothing")
    rng = np.random.default_rng(seed)
    weights = (np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(resamples))
    drawn = sorted(value for w in weights if not math.isnan(value := float(statistic(w @ parts))))
    at = round(0.025 * (len(drawn) - 1))
    return Estimate(float(statistic(parts.sum(axis=0))), drawn[at], drawn[-1 - at], n)
