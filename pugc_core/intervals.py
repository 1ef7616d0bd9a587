"""95% intervals for the figures that are reported: of a share, and of any statistic by bootstrap."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

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
    n = len(hits)
    if not n:
        raise ValueError("a share of nothing")
    p = sum(hits) / n
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
