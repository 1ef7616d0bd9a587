"""The figures that recipes are compared by: of one recipe's pairs and rewards, and of one recipe's against another's.

Every function here takes tables that were read and returns figures by name. Intervals are 95%: of shares, Wilson's; of
all else, a bootstrap over instructions, whose responses and rewards hang together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from pugc_core.intervals import Estimate, bootstrap_totals, share_of
from pugc_core.stages.measures import Measures
from pugc_core.stages.records import Counts
from pugc_core.tables import pair_diff

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PAIRS = (
    "instruction_id",
    "ugc_id",
    "chosen_response_id",
    "rejected_response_id",
    "margin",
    "chosen_tokens",
    "rejected_tokens",
    "keep",
)
"""Columns that are read of a table `pairs`."""
REWARDS = ("response_id", "instruction_id", "reward", "keep")
"""Columns that are read of a table `rewards`."""


@dataclass(frozen=True)
class Side:
    """What is read of one recipe."""

    recipe: str
    pairs: pl.DataFrame
    """PAIRS: a row for every instruction that was answered, with and without a pair; each instruction once."""
    rewards: pl.DataFrame
    """REWARDS: a row for every response that has a reward; each response once."""
    counts: Counts
    """Of the tables `pairs`, from their footers."""
    judged: Measures
    """The measures of the tables `rewards`, from their footers."""

    @cached_property
    def kept(self) -> pl.DataFrame:
        """The pairs."""
        return self.pairs.filter("keep")

    @cached_property
    def ties(self) -> pl.DataFrame:
        """Instruction, post, and in column `tied` 1 where all responses that have a reward have the same, else 0."""
        tied = self.rewards.group_by("instruction_id").agg(tied=(pl.col("reward").n_unique() == 1).cast(pl.Float64))
        return self.pairs.select("instruction_id", "ugc_id").join(tied, on="instruction_id")


@dataclass(frozen=True)
class Figure:
    """A figure, and how it is shown."""

    label: str
    value: Estimate | int | None
    """A count, an estimate, or None where there is nothing to measure."""
    form: str = ".2f"
    """How the numbers of an estimate are written, as `format` takes it."""

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        if isinstance(self.value, int):
            return f"{self.value:,}"
        value, low, high = (format(x, self.form) for x in (self.value.value, self.value.low, self.value.high))
        return f"{value} ({low} to {high}); n={self.value.n:,}"


Figures = Mapping[str, Figure]

_PER_PAIR = {
    "margin": ("margin", ".2f"),
    "chosen_tokens": ("tokens of chosen", ".1f"),
    "rejected_tokens": ("tokens of rejected", ".1f"),
}
_NO_SPREAD = 1e-12
_TIED = "all responses tied"


def counts(side: Side) -> Figures:
    """How many instructions were answered, how many have a pair, and for how many all responses tied."""
    instructions, tied = (int(side.judged.get(name, 0)) for name in ("instructions", "tied"))
    return {
        "instructions": Figure("instructions answered", side.counts.rows_in),
        "pairs": Figure("pairs", side.counts.kept),
        "tied": Figure(_TIED, share_of(tied, instructions) if instructions else None, ".1%"),
    }


def means(side: Side) -> Figures:
    """Mean margin and lengths of the pairs."""
    return {name: Figure(label, _mean(side.kept[name]), form) for name, (label, form) in _PER_PAIR.items()}


def overlap(first: Side, other: Side) -> Figures:
    """What both have: posts, instructions, and instructions with a pair in both; what became of these pairs."""

    def both(column: str) -> int:
        return first.pairs.join(other.pairs, on=column, how="semi")[column].n_unique()

    matched = pair_diff.matched(first.kept, other.kept)
    n = matched.height

    def share(label: str, outcome: str) -> Figure:
        return Figure(label, share_of(matched.filter(outcome=outcome).height, n) if n else None, ".1%")

    return {
        "posts_in_common": Figure("posts in common", both("ugc_id")),
        "instructions_in_common": Figure("instructions in common", both("instruction_id")),
        "pairs_in_common": Figure("with a pair in both", n),
        "same_pair": share("same pair", "same"),
        "flipped": share("flipped pair", "flipped"),
        "other_responses": share("other responses", "other"),
    }


def paired_by(first: Side, other: Side) -> str:
    """The column by which two recipes are paired: `instruction_id`, or `ugc_id` where most of the posts in common have
    other instructions."""
    posts = first.pairs.join(other.pairs, on="ugc_id", how="semi")["ugc_id"].n_unique()
    asked_alike = first.pairs.join(other.pairs, on="instruction_id", how="semi")["ugc_id"].n_unique()
    return "instruction_id" if 2 * asked_alike >= posts else "ugc_id"


def differences(first: Side, other: Side) -> Figures:
    """How much larger `other` is, in the mean over the instructions (or posts, see `paired_by`) that both have."""
    by = paired_by(first, other)
    found = {}
    for name, (label, form) in _PER_PAIR.items():
        value = _mean(_difference(first.kept, other.kept, name, by))
        found[f"{name}_difference"] = Figure(f"{label}: difference", value, f"+z{form}")
    tied = _mean(_difference(first.ties, other.ties, "tied", by))
    return {**found, "tied_difference": Figure(f"{_TIED}: difference", tied, "+z.1%")}


def agreement(first: Side, other: Side) -> Figures:
    """How far the rewards of responses in common agree.

    Pearson's r over the responses, and of all pairs of responses to one instruction whose rewards differ in both
    recipes the share that both put in the same order. `n` counts responses and such pairs; the resamples are of
    instructions.
    """
    rewards = other.rewards.select("response_id", reward_now="reward")
    joined = first.rewards.join(rewards, on="response_id").sort("response_id")
    return {
        "responses_in_common": Figure("responses in common", joined.height),
        "reward_correlation": Figure("rewards: Pearson r", _correlation(joined)),
        "ordered_alike": Figure("rewards: ordered alike", _ordered_alike(joined), ".1%"),
    }


OWN: Sequence[Callable[[Side], Figures]] = (counts, means)
"""Figures of each recipe."""
AGAINST: Sequence[Callable[[Side, Side], Figures]] = (overlap, differences, agreement)
"""Figures of each recipe against the first.

A further kind of figure, such as the win rate of one recipe's policy against another's, is one more function in one of
these lists, with what it reads as a field of Side that `compare.read` fills. The table, the metadata in the web UI, the
report and `--json` show every figure that these return; each returns the same names for all recipes.
"""


def _mean(values: pl.Series) -> Estimate | None:
    known = values.drop_nulls().cast(pl.Float64)
    if known.is_empty():
        return None
    return bootstrap_totals(pl.DataFrame({"sum": known, "n": 1.0}).to_numpy(), lambda sums: sums[0] / sums[1])


def _difference(first: pl.DataFrame, other: pl.DataFrame, column: str, by: str) -> pl.Series:
    """`other` less `first`, for each instruction (or post, whose instructions count as their mean) that both have."""
    was, now = (frame.group_by(by).agg(pl.col(column).cast(pl.Float64).mean()) for frame in (first, other))
    both = was.join(now, on=by, suffix="_now").sort(by)
    return both[f"{column}_now"] - both[column]


def _correlation(joined: pl.DataFrame) -> Estimate | None:
    # Counted from their mean, the sums lose no digits.
    centred = joined.select(
        "instruction_id",
        x=pl.col("reward") - pl.col("reward").mean(),
        y=pl.col("reward_now") - pl.col("reward_now").mean(),
    )
    x, y = pl.col("x"), pl.col("y")
    parts = _by_instruction(
        centred, n=pl.len(), x=x.sum(), y=y.sum(), xx=(x * x).sum(), yy=(y * y).sum(), xy=(x * y).sum()
    )
    return _estimate(parts, _pearson, joined.height)


def _pearson(sums: npt.NDArray[np.float64]) -> float:
    n, x, y, xx, yy, xy = sums
    spread = (xx - x * x / n) * (yy - y * y / n)
    return max(-1.0, min(1.0, (xy - x * y / n) / math.sqrt(spread))) if spread > _NO_SPREAD else math.nan


def _ordered_alike(joined: pl.DataFrame) -> Estimate | None:
    two = joined.join(joined, on="instruction_id", suffix="_2").filter(pl.col("response_id") < pl.col("response_id_2"))
    by_first, by_other = (pl.col(name) - pl.col(f"{name}_2") for name in ("reward", "reward_now"))
    ordered = two.filter(by_first != 0, by_other != 0)
    alike = (by_first.sign() == by_other.sign()).sum()
    parts = _by_instruction(ordered, alike=alike, n=pl.len())
    return _estimate(parts, lambda sums: sums[0] / sums[1], ordered.height)


def _by_instruction(frame: pl.DataFrame, **totals: pl.Expr) -> npt.NDArray[np.float64]:
    """Totals of each instruction, in the order of their ids."""
    added = frame.group_by("instruction_id").agg(**totals).sort("instruction_id")
    return added.drop("instruction_id").cast(pl.Float64).to_numpy()


def _estimate(
    parts: npt.NDArray[np.float64], statistic: Callable[[npt.NDArray[np.float64]], float], n: int
) -> Estimate | None:
    """The statistic of the totals, resting on `n` samples; None where there is none."""
    if not len(parts) or math.isnan(statistic(parts.sum(axis=0))):
        return None
    return replace(bootstrap_totals(parts, statistic), n=n)
