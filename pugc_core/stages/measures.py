"""Sums over a table's rows that are kept in its footer: what plots, checks and status need without reading any row.

Every measure is a sum or a count, so that the measures of many shards are added key by key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import polars as pl

BANDS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5)
"""Lower ends of the bands in which rewards are counted; each is half a point wide, the last one closed."""

Measures = Mapping[str, float]


def total(parts: Iterable[Measures]) -> dict[str, float]:
    """Measures added key by key. A key that is not there is 0."""
    added: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            added[name] = added.get(name, 0) + value
    return added


class Moments(NamedTuple):
    """Count, mean and population standard deviation of a measured quantity."""

    n: int
    mean: float
    std: float


def moments(measures: Measures, name: str) -> Moments | None:
    """Of the quantity whose count, sum and sum of squares were taken as `name`; None where nothing was counted."""
    n = measures.get(f"{name}_n", 0)
    if not n:
        return None
    mean = measures.get(f"{name}_sum", 0) / n
    return Moments(int(n), mean, math.sqrt(max(0.0, measures.get(f"{name}_squares", 0) / n - mean * mean)))


def banded(measures: Measures) -> bool:
    """Whether rewards were counted in bands: those of votes from 1 to 5 are, a classifier's scores are not."""
    return any(name.startswith(("tied_", "untied_")) for name in measures)


def parse_rate(measures: Measures) -> float | None:
    """Share of the model's answers that parsed; None where none was wanted."""
    answers = measures.get("answers", 0)
    return measures.get("parsed", 0) / answers if answers else None


def cut_off_share(measures: Measures) -> float | None:
    """Share of the responses that were cut off, kept or not; None where there are none."""
    answered = measures.get("answered", 0)
    return measures.get("cut_off", 0) / answered if answered else None


def sums(name: str, values: pl.Series) -> dict[str, float]:
    """What `moments` wants to know of the values."""
    known = values.drop_nulls().cast(pl.Float64)
    return {
        f"{name}_n": known.len(),
        f"{name}_sum": float(known.sum()),
        f"{name}_squares": float((known * known).sum()),
    }
