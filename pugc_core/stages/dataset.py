"""Dataset: the kept pairs of all shards as TRL reads them, split into train and test by groups of posts.

The prompt is rendered exactly as the policy was asked, so training and sampling see the same messages. A pair that
stands in several shards (the same post twice) is taken once, and so is a post with near-duplicates in other shards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from pugc_core.config import Config, digest
from pugc_core.errors import StorageError
from pugc_core.prompts.base import Prompt
from pugc_core.stages.base import Build, Dropped, Inputs, Sources, Stage
from pugc_core.stages.groups import Grouped, grouped
from pugc_core.stages.records import ORIGIN, ORIGIN_COLUMNS, define, make_id

_TURNS = pl.List(pl.Struct({"role": pl.String(), "content": pl.String()}))


class DatasetConfig(Config):
    test_share: float = Field(0.1, ge=0, lt=1)
    """Share of groups of posts whose pairs are held out from training (`pugc_core.stages.groups`)."""
    max_pairs: int | None = Field(None, ge=1)
    """Most pairs to train on; null takes all. Which of them stay goes by a hash of their group, so that a smaller set
    is part of a larger one; the others are dropped as `over_limit`. The test side keeps all its pairs: policies
    trained on sets of different sizes are measured on the same held-out questions."""


@dataclass(frozen=True)
class Merged:
    """How many of a recipe's pairs go into a data set that is made of several recipes' (`recipe.MergedConfig`)."""

    weight: float | None = None
    limit: int | None = None


def slot(recipe: str) -> str:
    """Under which name the pairs of a recipe are read, where several are merged."""
    return f"pairs@{recipe}"


@dataclass(frozen=True)
class Dataset(Stage):
    config: DatasetConfig
    prompt: Prompt
    """The wording in which the policy is asked (stage `responses`)."""
    near_duplicates: Literal["drop", "keep"] = "drop"
    similarity: float = 0.8
    """As stage `ugc` has them: it sees one shard, this stage all."""
    merge: Mapping[str, Merged] = field(default_factory=dict, kw_only=True)
    """The recipes whose pairs are merged, by name; where there are none, those of this recipe are taken."""

    name = "dataset"
    after = "pairs"
    sharded = False
    sentence = (
        "The pairs of all shards as TRL reads them, split into train and test by groups of posts, with a dataset card."
    )
    table = define(
        "dataset",
        "pair_id",
        [
            ("pair_id", pl.String(), "the pair"),
            ("instruction_id", pl.String(), "its instruction"),
            ("ugc_id", pl.String(), "its post"),
            ("shard", pl.String(), "its shard"),
            ("split", pl.String(), "train or test, the same for all pairs of a group"),
            ("group", pl.String(), "posts of one thread or title, near-duplicate posts and questions"),
            *ORIGIN_COLUMNS,
            ("prompt", _TURNS, "conversational prompt, as TRL reads it"),
            ("chosen", _TURNS, "the better answer"),
            ("rejected", _TURNS, "the worse answer"),
            ("chosen_reward", pl.Float64(), "reward of chosen"),
            ("rejected_reward", pl.Float64(), "reward of rejected"),
            ("margin", pl.Float64(), "their difference"),
            ("chosen_cut_off", pl.Boolean(), "whether chosen was cut off: no end is trained after it"),
            ("rejected_cut_off", pl.Boolean(), "whether rejected was cut off: likewise"),
        ],
    )
    checks = ("distinct_texts", "one_state")
    sources: ClassVar[Sources] = {
        "pair_id": [("pairs", "pair_id")],
        "ugc_id": [("pairs", "ugc_id")],
        "prompt": [("pairs", "instruction")],
        "chosen": [("pairs", "chosen")],
        "rejected": [("pairs", "rejected")],
        "margin": [("pairs", "margin")],
        "chosen_cut_off": [("pairs", "chosen_cut_off")],
        "rejected_cut_off": [("pairs", "rejected_cut_off")],
        **{
            side: [("pairs", name) for name in ("thread", "title", "post", "instruction")]
            for side in ("split", "group")
        },
        **{name: [("pairs", name)] for name in ORIGIN},
    }
    dropped = Dropped("prompt")

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(map(slot, self.merge)) or super().inputs

    @property
    def fingerprint(self) -> Mapping[str, str]:
        merge = (
            {"merge": digest([[name, of.weight, of.limit] for name, of in self.merge.items()])} if self.merge else {}
        )
        return {
            **merge,
            "version": "3",
            "prompt": self.prompt.fingerprint,
            "split": digest(self.config.test_share),
            "near": digest([self.near_duplicates, self.similarity]),
            # Named only where there is one, so that tables from before there was a choice stay current.
            **({} if self.config.max_pairs is None else {"limit": str(self.config.max_pairs)}),
        }

    def build(self, shard: str, inputs: Inputs) -> Build:
        """`inputs["pairs"]` holds the pairs of all shards, with their shard in an extra column."""
        yield from ()
        rows, seen = [], set[str]()
        pairs = self._pairs(inputs)
        if older := pairs.filter(pl.col("post").is_null())["shard"].unique().sort().to_list():
            raise StorageError(
                f"the pairs of {len(older)} shards were made by an older version of pugc: {', '.join(older[:5])}",
                fix="make them again: pugc refresh; it costs no calls but those that the new version asks for",
            )
        groups = grouped(pairs, self.similarity)
        questions: dict[str, str] = {}
        for row in pairs.iter_rows(named=True):
            reason = self._reason(row, seen, groups)
            if self.merge and reason is None:
                folded = " ".join(row["instruction"].lower().split())
                reason = (
                    "duplicate_question" if questions.setdefault(folded, row["pair_id"]) != row["pair_id"] else None
                )
            seen.add(row["pair_id"])
            messages = self.prompt.render({"instruction": row["instruction"]})
            rows.append(
                {
                    **{c: row[c] for c in ("pair_id", "instruction_id", "ugc_id", "shard")},
                    "split": "test" if groups.point[row["ugc_id"]] < self.config.test_share else "train",
                    "group": groups.group[row["ugc_id"]],
                    **{c: row[c] for c in ORIGIN},
                    "prompt": [m._asdict() for m in messages],
                    "chosen": [{"role": "assistant", "content": row["chosen"]}],
                    "rejected": [{"role": "assistant", "content": row["rejected"]}],
                    **{c: row[c] for c in ("chosen_reward", "rejected_reward", "margin")},
                    **{c: row[c] for c in ("chosen_cut_off", "rejected_cut_off")},
                    "keep": reason is None,
                    "drop_reason": reason,
                }
            )
        if self.merge:
            self._measure_out(rows)
        for row in self._over_limit(rows):
            row |= {"keep": False, "drop_reason": "over_limit"}
        return self.table.frame(rows)

    def _pairs(self, inputs: Inputs) -> pl.DataFrame:
        """The kept pairs with their shard, before whose name stands the recipe's where several are merged."""
        if not self.merge:
            return inputs["pairs"].filter("keep").sort("shard", "pair_id", maintain_order=True)
        parts = [
            inputs[slot(name)]
            .filter("keep")
            .sort("shard", "pair_id", maintain_order=True)
            .with_columns(shard=pl.lit(f"{name}/") + pl.col("shard"))
            for name in self.merge
        ]
        return pl.concat(parts)

    def _measure_out(self, rows: Sequence[dict[str, Any]]) -> None:
        """No more of each recipe's pairs than its limit and its weight allow. By the pairs' ids, which are hashes, so
        that the same pairs stay when others come."""
        kept = {
            name: [row for row in rows if row["keep"] and row["shard"].startswith(f"{name}/")] for name in self.merge
        }
        for name, of in self.merge.items():
            kept[name] = _cut(kept[name], of.limit, "over_limit")
        weights = {name: of.weight for name, of in self.merge.items() if of.weight}
        size = min((len(kept[name]) / weight for name, weight in weights.items()), default=0.0)
        for name, weight in weights.items():
            _cut(kept[name], math.floor(weight * size + 1e-9), "over_weight")

    def _over_limit(self, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """The pairs that there is no room for."""
        most = self.config.max_pairs
        if most is None:
            return ()
        train = [row for row in rows if row["keep"] and row["split"] == "train"]
        return sorted(train, key=lambda row: (make_id("size", row["group"]), row["pair_id"]))[most:]

    def _reason(self, pair: Mapping[str, Any], seen: Set[str], groups: Grouped) -> str | None:
        if pair["pair_id"] in seen:
            return "duplicate"
        return "near_duplicate" if self.near_duplicates == "drop" and pair["ugc_id"] in groups.copy_of else None


def _cut(rows: list[dict[str, Any]], most: int | None, reason: str) -> list[dict[str, Any]]:
    """The first of the rows by their ids; of the others, it is noted why they are not taken."""
    ordered = sorted(rows, key=lambda row: row["pair_id"])
    for row in ordered[most:] if most is not None else ():
        row |= {"keep": False, "drop_reason": reason}
    return ordered[:most]
