"""Sums over a table's rows that are kept in its footer: what plots, checks and status need without reading any row.

Every measure is a sum or a count, so that the measures of many shards are added key by key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from pugc_core.engines.base import CUT_OFF

BANDS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5)
"""Lower ends of the bands in which rewards are counted; each is half a point wide, the last one closed."""

Measures = Mapping[str, float]


def measure(stage: str, frame: pl.DataFrame) -> dict[str, float]:
    """The measures of one table of a stage; {} for stages that have none."""
    measures = _MEASURES[stage](frame) if stage in _MEASURES else {}
    return {name: value for name, value in measures.items() if value}


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


def parse_rate(measures: Measures) -> float | None:
    """Share of the model's answers that parsed; None where none was wanted."""
    answers = measures.get("answers", 0)
    return measures.get("parsed", 0) / answers if answers else None


def cut_off_share(measures: Measures) -> float | None:
    """Share of the responses that were cut off, kept or not; None where there are none."""
    answered = measures.get("answered", 0)
    return measures.get("cut_off", 0) / answered if answered else None


def _sums(name: str, values: pl.Series) -> dict[str, float]:
    known = values.drop_nulls().cast(pl.Float64)
    return {
        f"{name}_n": known.len(),
        f"{name}_sum": float(known.sum()),
        f"{name}_squares": float((known * known).sum()),
    }


def _quality(frame: pl.DataFrame) -> dict[str, float]:
    scores = frame["score"].drop_nulls()
    by_score = {f"score_{score}": n for score, n in scores.value_counts().sort("score").iter_rows()}
    return {
        "answers": frame["reasoning"].count(),
        "parsed": scores.len(),
        **by_score,
        **_sums("score", scores),
    }


def _instructions(frame: pl.DataFrame) -> dict[str, float]:
    return _sums("chars", frame.filter("keep")["instruction"].str.len_chars())


def _relevance(frame: pl.DataFrame) -> dict[str, float]:
    parsed = frame["relevant"].drop_nulls()
    unparsable = frame.filter(pl.col("drop_reason") == "unparsable").height
    return {"answers": parsed.len() + unparsable, "parsed": parsed.len(), "relevant": int(parsed.sum())}


def _responses(frame: pl.DataFrame) -> dict[str, float]:
    return {
        **_sums("tokens", frame.filter("keep")["n_tokens"]),
        "answered": frame["text"].count(),
        "cut_off": frame.filter(
            pl.col("text").is_not_null(), pl.col("finish_reason").str.to_lowercase().is_in(CUT_OFF)
        ).height,
    }


def _rewards(frame: pl.DataFrame) -> dict[str, float]:
    scores = frame.select(
        pl.col("votes").explode().struct.field("score"), pl.col("votes").explode().struct.field("draw")
    )
    judged = frame.filter("keep")
    ties = judged.group_by("instruction_id").agg(tied=pl.col("reward").n_unique() == 1)
    banded = judged.join(ties, on="instruction_id").with_columns(
        band=((pl.col("reward") * 2).floor() / 2).clip(BANDS[0], BANDS[-1])
    )
    measures: dict[str, float] = {
        "answers": scores["draw"].count(),
        "parsed": scores["score"].count(),
        "voteless": frame.filter(pl.col("n_valid") == 0, pl.col("votes").list.len() > 0).height,
        "instructions": ties.height,
        "tied": int(ties["tied"].sum()),
        **_sums("reward", judged["reward"]),
        **_sums("spread", judged["spread"]),
    }
    for n_valid, n in frame["n_valid"].value_counts().sort("n_valid").iter_rows():
        measures[f"votes_{n_valid}"] = n
    for tied, band, n in banded.group_by("tied", "band").len().sort("tied", "band").iter_rows():
        measures[f"{'tied' if tied else 'untied'}_{band:.1f}"] = n
    return measures


def _pairs(frame: pl.DataFrame) -> dict[str, float]:
    kept = frame.filter("keep")
    return {
        **_sums("margin", kept["margin"]),
        **_sums("chosen_tokens", kept["chosen_tokens"]),
        **_sums("rejected_tokens", kept["rejected_tokens"]),
        "cut_off": int((kept["chosen_cut_off"] | kept["rejected_cut_off"]).sum()),
    }


_MEASURES: Mapping[str, Any] = {
    "quality": _quality,
    "instructions": _instructions,
    "relevance": _relevance,
    "responses": _responses,
    "rewards": _rewards,
    "pairs": _pairs,
}
