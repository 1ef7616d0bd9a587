"""Dataset: the kept pairs of all shards as TRL reads them, split into train and test by post.

The prompt is rendered exactly as the policy was asked, so training and sampling see the same messages. A pair that
stands in several shards (the same post twice) is taken once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from pydantic import Field

from pugc_core import records
from pugc_core.config import Config, digest
from pugc_core.prompts.base import Prompt
from pugc_core.records import Table
from pugc_core.stages.base import Build

ALL = "_all"
"""The dataset has one table over all shards; this stands where others have a shard's name, and is no shard's name."""


class DatasetConfig(Config):
    test_share: float = Field(0.1, ge=0, lt=1)
    """Share of posts whose pairs are held out from training, by hash of ugc_id."""


@dataclass(frozen=True)
class Dataset:
    config: DatasetConfig
    prompt: Prompt
    """The wording in which the policy is asked (stage `responses`)."""

    name = "dataset"
    role = None
    table: Table = records.DATASET
    inputs = ("pairs",)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {"version": "2", "prompt": self.prompt.fingerprint, "split": digest(self.config.test_share)}

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        """`inputs["pairs"]` holds the pairs of all shards, with their shard in an extra column."""
        yield from ()
        rows, seen = [], set()
        pairs = inputs["pairs"].filter(pl.col("keep")).sort("shard", "pair_id", maintain_order=True)
        for row in pairs.iter_rows(named=True):
            reason = "duplicate" if row["pair_id"] in seen else None
            seen.add(row["pair_id"])
            messages = self.prompt.render({"instruction": row["instruction"]})
            rows.append(
                {
                    **{c: row[c] for c in ("pair_id", "instruction_id", "ugc_id", "shard")},
                    "split": split_of(row["ugc_id"], self.config.test_share),
                    "prompt": [m._asdict() for m in messages],
                    "chosen": [{"role": "assistant", "content": row["chosen"]}],
                    "rejected": [{"role": "assistant", "content": row["rejected"]}],
                    **{c: row[c] for c in ("chosen_reward", "rejected_reward", "margin")},
                    **{c: row[c] for c in ("chosen_cut_off", "rejected_cut_off")},
                    "keep": reason is None,
                    "drop_reason": reason,
                }
            )
        return self.table.frame(rows)


def split_of(ugc_id: str, test_share: float) -> str:
    """ "train" or "test", the same for every pair of a post, in every run."""
    point = int.from_bytes(hashlib.sha256(f"split\x1f{ugc_id}".encode()).digest()[:8], "big") / 2**64
    return "test" if point < test_share else "train"
