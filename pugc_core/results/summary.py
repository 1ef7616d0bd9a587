"""What a recipe's tables hold, counted: the funnel from posts to pairs, rewards, and one pair with all behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pugc_core.errors import StorageError
from pugc_core.stages import of_node
from pugc_core.stages.measures import BANDS, Measures, banded, moments, parse_rate, total
from pugc_core.stages.records import ALL, NOTHING, Counts
from pugc_core.tables.store import Tables


def funnel(tables: Tables, shards: Iterable[str], names: Iterable[str] = ()) -> dict[str, Counts]:
    """Rows in, kept and dropped by reason, of every node that has tables among `shards`, in run order; only of those
    named, where any are."""
    wanted = set(shards)
    counted = {}
    for name in names or tables.names:
        footers, sharded = tables.footers(name), of_node(name).sharded
        counts = [footer.counts for shard, footer in footers.items() if not sharded or shard in wanted]
        if counts:
            counted[name] = sum(counts, NOTHING)
    return counted


def rows(tables: Tables, stage: str, shards: Iterable[str] | None = None) -> pl.DataFrame:
    """The rows of a stage over shards (all that there are, unless named), with their shard in column `shard`."""
    there = tables.shards(stage)
    names = there if shards is None else [s for s in shards if s in set(there)]
    frames = [tables.read(stage, shard) for shard in names]
    table = of_node(stage).table
    if "shard" not in table.columns:
        frames = [frame.with_columns(shard=pl.lit(shard)) for shard, frame in zip(names, frames, strict=True)]
    if frames:
        return pl.concat(frames)
    return pl.DataFrame(schema={**table.schema, "shard": pl.String()})


@dataclass(frozen=True)
class RewardShape:
    """Distribution of rewards."""

    responses: int
    mean: float
    std: float
    histogram: Mapping[str, int]
    """responses per band of reward: "1.0-1.5", ...; empty for a classifier's scores, which have no common scale"""
    untied: Mapping[str, int]
    """the same without the responses to instructions whose responses all tied"""
    parse_rate: float
    """share of the judge's draws that gave a vote"""
    all_tied: float
    """share of instructions whose responses all have the same reward"""
    instructions: int
    """instructions that have responses with a reward"""
    tied: int
    """those whose responses all have the same reward"""
    fullest: float
    """share of the rewards in the band that has most of them; 0 where there are no bands"""


def reward_shape(measured: Measures) -> RewardShape | None:
    """From the measures of tables `rewards`, added up. None when no response has a reward."""
    rewards = moments(measured, "reward")
    if rewards is None:
        return None
    bands = BANDS if banded(measured) else ()
    untied = {f"{low:.1f}-{low + 0.5:.1f}": int(measured.get(f"untied_{low:.1f}", 0)) for low in bands}
    tied = {f"{low:.1f}-{low + 0.5:.1f}": int(measured.get(f"tied_{low:.1f}", 0)) for low in bands}
    histogram = {band: untied[band] + tied[band] for band in untied}
    instructions, all_tied = int(measured["instructions"]), int(measured.get("tied", 0))
    return RewardShape(
        rewards.n,
        rewards.mean,
        rewards.std,
        histogram,
        untied,
        parse_rate(measured) or 0.0,
        all_tied / instructions,
        instructions,
        all_tied,
        max(histogram.values(), default=0) / rewards.n,
    )


def measured(tables: Tables, stage: str, shards: Iterable[str] | None = None) -> dict[str, float]:
    """The measures of a stage's tables added up, over shards (all that there are, unless named)."""
    footers = tables.footers(stage)
    wanted = footers.keys() if shards is None else set(shards)
    return total(footer.measures for shard, footer in footers.items() if shard in wanted)


def lineage(tables: Tables, pair_id: str) -> dict[str, Any]:
    """A pair and all behind it: post, quality (None where the recipe has no such stage), instruction, every response
    with its votes.

    `pair_id` may be a beginning, as long as only one pair has it. Raises StorageError when none or several have.
    """
    pairs = rows(tables, "pairs").filter(pl.col("pair_id").str.starts_with(pair_id))
    if pairs["pair_id"].n_unique() > 1:
        raise StorageError(f"{pair_id} begins {pairs['pair_id'].n_unique()} pairs", fix="give more of the id")
    if pairs.is_empty():
        fix = f"pugc export pairs.jsonl --what pairs --recipe {tables.recipe} lists them"
        raise StorageError(f"no pair {pair_id} in recipe {tables.recipe}", fix=fix)
    row = pairs.row(0, named=True)
    return _behind(_Shard(tables), row.pop("shard"), row)


def lineages(tables: Tables, pair_ids: Sequence[str]) -> list[dict[str, Any]]:
    """`lineage` of several pairs, in their order. One whose tables have changed since it was made is left out."""
    wanted = rows(tables, "pairs").filter(pl.col("pair_id").is_in(list(pair_ids)), pl.col("keep"))
    by_id = {row["pair_id"]: row for row in wanted.iter_rows(named=True)}
    kept = _Shard(tables)
    found = []
    for pair_id in pair_ids:
        if row := by_id.get(pair_id):
            with contextlib.suppress(StorageError):
                found.append(_behind(kept, row.pop("shard"), row))
    return found


class _Shard:
    """The tables of the shard that was asked for last."""

    def __init__(self, tables: Tables) -> None:
        self.recipe = tables.recipe
        self.names = tables.names
        self._tables = tables
        self._known: dict[tuple[str, str], pl.DataFrame] = {}

    def read(self, stage: str, shard: str) -> pl.DataFrame:
        if any(other != shard for _, other in self._known):
            self._known.clear()
        if (stage, shard) not in self._known:
            self._known[stage, shard] = self._tables.read(stage, shard)
        return self._known[stage, shard]


def _behind(tables: _Shard, shard: str, pair: dict[str, Any]) -> dict[str, Any]:
    def one(stage: str, column: str, value: str) -> dict[str, Any]:
        found = tables.read(stage, shard).filter(pl.col("keep"), pl.col(column) == value)
        if found.is_empty():
            raise StorageError(
                f"pair {pair['pair_id']} is older than the table {stage} of its shard {shard}",
                fix=f"pugc run --recipe {tables.recipe} --shard {shard}",
            )
        return found.row(0, named=True)

    instruction_id = pair["instruction_id"]
    responses = tables.read("responses", shard).filter(pl.col("instruction_id") == instruction_id)
    there = set(responses["response_id"])
    if not {pair["chosen_response_id"], pair["rejected_response_id"]} <= there:
        raise StorageError(
            f"pair {pair['pair_id']} is older than the table responses of its shard {shard}",
            fix=f"pugc run --recipe {tables.recipe} --shard {shard}",
        )
    votes = tables.read("rewards", shard).drop("instruction_id", "keep", "drop_reason")
    return {
        "pair": pair,
        "shard": shard,
        "post": one("ugc", "ugc_id", pair["ugc_id"]),
        "quality": one("quality", "ugc_id", pair["ugc_id"]) if "quality" in tables.names else None,
        "instruction": one("instructions", "instruction_id", instruction_id),
        "responses": responses.join(votes, on="response_id", how="left", maintain_order="left").to_dicts(),
    }


@dataclass(frozen=True)
class Shown:
    """A pair as it is shown in short."""

    pair_id: str
    shard: str
    question: str
    chosen: str
    rejected: str
    chosen_reward: float
    rejected_reward: float
    margin: float


def best(tables: Tables, count: int) -> tuple[list[Shown], int]:
    """The pairs of the data set with the widest margins, at most one of a post, and how many pairs there are. Of equal
    margins the better chosen answer goes first, then the id."""
    if ALL not in tables.shards("dataset"):
        return [], 0
    columns = ["pair_id", "ugc_id", "shard", "keep", "margin", "chosen_reward", "rejected_reward"]
    kept = tables.read("dataset", ALL, [*columns, "prompt", "chosen", "rejected"]).filter("keep")
    order = kept.sort("margin", "chosen_reward", "pair_id", descending=[True, True, False])
    rows = order.unique("ugc_id", keep="first", maintain_order=True).head(count).to_dicts()
    words = {"question": "prompt", "chosen": "chosen", "rejected": "rejected"}
    names = ("pair_id", "shard", "chosen_reward", "rejected_reward", "margin")
    found = [
        Shown(**{name: row[name] for name in names}, **{name: row[of][-1]["content"] for name, of in words.items()})
        for row in rows
    ]
    return found, kept.height
