"""What a recipe's tables hold, counted: the funnel from posts to pairs, rewards, and one pair with all behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from pugc_core.errors import StorageError
from pugc_core.records import NOTHING, TABLES, Counts
from pugc_core.stages.dataset import ALL
from pugc_core.tables import Store

SHARDED = tuple(name for name in TABLES if name != "dataset")
"""The stages that have one table per shard, in run order."""


def funnel(store: Store, recipe: str, shards: Iterable[str]) -> dict[str, Counts]:
    """Rows in, kept and dropped by reason, of every stage that has tables among `shards`, in run order."""
    wanted = set(shards)
    counted = {}
    for stage in TABLES:
        there = store.shards(recipe, stage)
        there = there if stage == "dataset" else [s for s in there if s in wanted]
        footers = [store.footer(recipe, stage, shard) for shard in there]
        if footers:
            counted[stage] = sum((f.counts for f in footers if f), NOTHING)
    return counted


def rows(store: Store, recipe: str, stage: str, shards: Iterable[str] | None = None) -> pl.DataFrame:
    """The rows of a stage over shards (all that there are, unless named), with their shard in column `shard`."""
    there = store.shards(recipe, stage)
    names = there if shards is None else [s for s in shards if s in set(there)]
    frames = [store.read(recipe, stage, shard) for shard in names]
    if "shard" not in TABLES[stage].columns:
        frames = [frame.with_columns(shard=pl.lit(shard)) for shard, frame in zip(names, frames, strict=True)]
    if frames:
        return pl.concat(frames)
    return pl.DataFrame(schema={**TABLES[stage].schema, "shard": pl.String()})


@dataclass(frozen=True)
class RewardShape:
    """Distribution of the rewards of a recipe."""

    responses: int
    mean: float
    std: float
    histogram: Mapping[str, int]
    """responses per band of reward: "1.0-1.5", ..."""
    parse_rate: float
    """share of the judge's draws that gave a vote"""
    all_tied: float
    """share of instructions whose responses all have the same reward"""


def reward_shape(store: Store, recipe: str, shards: Iterable[str] | None = None) -> RewardShape | None:
    """None when no response has a reward yet."""
    rewards = rows(store, recipe, "rewards", shards)
    judged = rewards.filter(pl.col("keep"))
    if judged.is_empty():
        return None
    draws = int(rewards["votes"].list.len().sum())
    valid = int(rewards["votes"].list.eval(pl.element().struct.field("score").is_not_null().sum()).explode().sum())
    bands = {}
    for low in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5):
        last = low == 4.5
        inside = judged.filter(pl.col("reward").is_between(low, low + 0.5, closed="both" if last else "left"))
        bands[f"{low:.1f}-{low + 0.5:.1f}"] = inside.height
    tied = judged.group_by("instruction_id").agg(pl.col("reward").n_unique() == 1)["reward"]
    mean, std = judged["reward"].mean(), judged["reward"].std(ddof=0)
    assert isinstance(mean, float)
    assert isinstance(std, float)
    share_tied = tied.mean()
    assert isinstance(share_tied, float)
    return RewardShape(judged.height, mean, std, bands, valid / draws if draws else 0.0, share_tied)


def lineage(store: Store, recipe: str, pair_id: str) -> dict[str, Any]:
    """A pair and all behind it: post, quality, instruction, every response with its votes.

    `pair_id` may be a beginning, as long as only one pair has it. Raises StorageError when none or several have.
    """
    pairs = rows(store, recipe, "pairs").filter(pl.col("pair_id").str.starts_with(pair_id))
    if pairs["pair_id"].n_unique() > 1:
        raise StorageError(f"{pair_id} begins {pairs['pair_id'].n_unique()} pairs", fix="give more of the id")
    if pairs.is_empty():
        fix = f"pugc export pairs.jsonl --what pairs --recipe {recipe} lists them"
        raise StorageError(f"no pair {pair_id} in recipe {recipe}", fix=fix)
    row = pairs.row(0, named=True)
    return _behind(store, recipe, row.pop("shard"), row)


def _behind(store: Store, recipe: str, shard: str, pair: dict[str, Any]) -> dict[str, Any]:
    def one(stage: str, column: str, value: str) -> dict[str, Any]:
        found = store.read(recipe, stage, shard).filter(pl.col("keep"), pl.col(column) == value)
        if found.is_empty():
            raise StorageError(
                f"pair {pair['pair_id']} is older than the table {stage} of its shard {shard}",
                fix=f"pugc run --recipe {recipe} --shard {shard}",
            )
        return found.row(0, named=True)

    instruction_id = pair["instruction_id"]
    responses = store.read(recipe, "responses", shard).filter(pl.col("instruction_id") == instruction_id)
    votes = store.read(recipe, "rewards", shard).drop("instruction_id", "keep", "drop_reason")
    return {
        "pair": pair,
        "shard": shard,
        "post": one("ugc", "ugc_id", pair["ugc_id"]),
        "quality": one("quality", "ugc_id", pair["ugc_id"]),
        "instruction": one("instructions", "instruction_id", instruction_id),
        "responses": responses.join(votes, on="response_id", how="left", maintain_order="left").to_dicts(),
    }


def example(store: Store, recipe: str) -> str | None:
    """Id of the kept pair with the widest margin, the first of them by id; None when there is no pair."""
    if ALL not in store.shards(recipe, "dataset"):
        return None
    kept = store.read(recipe, "dataset", ALL).filter(pl.col("keep")).sort("margin", "pair_id", descending=[True, False])
    return str(kept["pair_id"][0]) if kept.height else None
