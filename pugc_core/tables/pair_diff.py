"""What a change upstream did to the pairs: which order was turned round, and how the margins moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

EXAMPLES = 5


@dataclass(frozen=True)
class PairDiff:
    """Pairs before and after, over the instructions that have both. Changes of several shards can be added."""

    compared: int = 0
    flipped: int = 0
    """What was chosen is now rejected, or what was rejected is now chosen."""
    other: int = 0
    """Not flipped, but not the same two responses either."""
    gained: int = 0
    """Instructions that have a pair now and had none."""
    lost: int = 0
    margin_before: float = 0.0
    """Sum over the compared."""
    margin_after: float = 0.0
    examples: tuple[Mapping[str, Any], ...] = ()
    """Flipped ones: instruction, pair_id, and chosen and rejected before and after."""

    def __add__(self, more: PairDiff) -> PairDiff:
        return PairDiff(
            self.compared + more.compared,
            self.flipped + more.flipped,
            self.other + more.other,
            self.gained + more.gained,
            self.lost + more.lost,
            self.margin_before + more.margin_before,
            self.margin_after + more.margin_after,
            (*self.examples, *more.examples)[:EXAMPLES],
        )

    def sentence(self, k: int) -> str:
        """What changed, in words, for K responses per instruction.

        Were the votes pure noise, old and new pair would be independent draws of two of K responses, and a pair would
        flip with probability 2/K - 1/(K(K-1)): 1/K for either end, less what is counted twice.
        """
        if not self.compared:
            return "no instruction has a pair both before and after"
        mean = self.margin_before / self.compared, self.margin_after / self.compared
        return (
            f"{self.flipped} of {self.compared} pairs flipped ({self.flipped / self.compared:.1%}; were the votes pure "
            f"noise, {2 / k - 1 / (k * (k - 1)):.1%} would), {self.other} more "
            f"have other responses; mean margin {mean[0]:.2f} before, {mean[1]:.2f} after; "
            f"{self.gained} gained, {self.lost} lost"
        )


def matched(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The instructions that have a pair in both of two tables `pairs`: the columns of `before`, those of `after` with
    `_now` behind their names, and `outcome`, which is "same", "flipped" or "other" (see PairDiff)."""
    both = before.filter("keep").join(after.filter("keep"), on="instruction_id", suffix="_now", maintain_order="left")
    chosen, rejected = pl.col("chosen_response_id"), pl.col("rejected_response_id")
    chosen_now, rejected_now = pl.col("chosen_response_id_now"), pl.col("rejected_response_id_now")
    return both.with_columns(
        outcome=pl.when((chosen == rejected_now) | (rejected == chosen_now))
        .then(pl.lit("flipped"))
        .when((chosen == chosen_now) & (rejected == rejected_now))
        .then(pl.lit("same"))
        .otherwise(pl.lit("other"))
    )


def compare(before: pl.DataFrame, after: pl.DataFrame) -> PairDiff:
    """Two tables `pairs` of the same shard."""
    both = matched(before, after)
    flipped = both.filter(outcome="flipped")
    columns = [pl.col("instruction"), pl.col("pair_id_now").alias("pair_id")]
    columns += [
        pl.col(f"{name}{suffix}").alias(f"{name}_{when}")
        for name in ("chosen", "rejected", "margin")
        for suffix, when in (("", "before"), ("_now", "after"))
    ]
    return PairDiff(
        both.height,
        flipped.height,
        both.filter(outcome="other").height,
        after.filter("keep").height - both.height,
        before.filter("keep").height - both.height,
        float(both["margin"].sum()),
        float(both["margin_now"].sum()),
        tuple(flipped.select(columns).head(EXAMPLES).to_dicts()),
    )
