"""Pairs: the best response against the worst, by reward (paper 3.4).

Tie at the top: the shortest. Tie at the bottom: the longest. All tied: no preference was expressed, so no pair.
Chosen and rejected never have the same text. The post goes along, with its licence and where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from pydantic import Field

from pugc_core import records
from pugc_core.config import Config, digest
from pugc_core.engines.base import was_cut_off
from pugc_core.records import Table, make_id
from pugc_core.stages.base import Build

Candidate = Mapping[str, Any]
_OF_POST = ("line", "title", "thread", *records.ORIGIN)
"""What a pair carries of its post besides the text: where it comes from, and what the split goes by."""


class PairsConfig(Config):
    min_margin: float = Field(0.0, ge=0)
    """Pairs whose rewards differ by less are dropped as `small_margin`."""
    all_tied: Literal["drop", "length"] = "drop"
    """When every response has the same reward: no pair (`all_tied`), or the shortest against the longest."""


@dataclass(frozen=True)
class Pairs:
    config: PairsConfig

    name = "pairs"
    role = None
    table: Table = records.PAIRS
    inputs = ("ugc", "instructions", "responses", "rewards")

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {"version": "2", "ties": self.config.all_tied, "margin": digest(self.config.min_margin)}

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        yield from ()
        rewards = inputs["rewards"].filter(pl.col("keep")).select("response_id", "reward")
        # Every instruction that was answered is a row, also when none of its answers could be judged.
        answered = inputs["responses"].join(rewards, on="response_id", how="left", maintain_order="left")
        groups: dict[str, list[Candidate]] = {}
        for row in answered.iter_rows(named=True):
            groups.setdefault(row["instruction_id"], []).append(row)
        posts = inputs["ugc"].filter(pl.col("keep")).select("ugc_id", *_OF_POST, post="text")
        kept = (
            inputs["instructions"]
            .filter(pl.col("keep"))
            .select("instruction_id", "ugc_id", "instruction")
            .join(posts, on="ugc_id", how="left", maintain_order="left")
        )
        return self.table.frame(
            self._pair(row, groups[row["instruction_id"]])
            for row in kept.iter_rows(named=True)
            if row["instruction_id"] in groups
        )

    def _pair(self, instruction: Candidate, responses: Sequence[Candidate]) -> dict[str, Any]:
        judged = [r for r in responses if r["reward"] is not None]
        if len(judged) < 2:
            return _row(instruction, None, None, "too_few_responses")
        best, worst = choose(judged)
        if best["reward"] == worst["reward"] and self.config.all_tied == "drop":
            return _row(instruction, best, worst, "all_tied")
        if best["text"] == worst["text"]:
            return _row(instruction, best, worst, "same_text")
        # Means are rounded in binary: 1.2 - 1.0 is a little below 0.2.
        if best["reward"] - worst["reward"] < self.config.min_margin - 1e-9:
            return _row(instruction, best, worst, "small_margin")
        return _row(instruction, best, worst, None)


def choose(judged: Sequence[Candidate]) -> tuple[Candidate, Candidate]:
    """(chosen, rejected) of at least two judged responses: the shortest of the top, the longest of the bottom.

    Length is in characters of the text; equal lengths go by draw, so that the choice never depends on row order.
    When all rewards tie this is the shortest against the longest, which the caller may refuse.
    """
    top = max(r["reward"] for r in judged)
    bottom = min(r["reward"] for r in judged)
    chosen = min((r for r in judged if r["reward"] == top), key=lambda r: (len(r["text"]), r["draw"]))
    rejected = max((r for r in judged if r["reward"] == bottom), key=lambda r: (len(r["text"]), r["draw"]))
    return chosen, rejected


def _row(
    instruction: Candidate, chosen: Candidate | None, rejected: Candidate | None, reason: str | None
) -> dict[str, Any]:
    best: Candidate = chosen or {}
    worst: Candidate = rejected or {}
    margin = best["reward"] - worst["reward"] if chosen and rejected else None
    return {
        "pair_id": make_id("pair", instruction["instruction_id"], best.get("response_id"), worst.get("response_id")),
        "instruction_id": instruction["instruction_id"],
        "ugc_id": instruction["ugc_id"],
        "instruction": instruction["instruction"],
        "post": instruction["post"],
        **{name: instruction[name] for name in _OF_POST},
        "chosen_response_id": best.get("response_id"),
        "rejected_response_id": worst.get("response_id"),
        "chosen": best.get("text"),
        "rejected": worst.get("text"),
        "chosen_reward": best.get("reward"),
        "rejected_reward": worst.get("reward"),
        "margin": margin,
        "chosen_tokens": best.get("n_tokens"),
        "rejected_tokens": worst.get("n_tokens"),
        "chosen_cut_off": was_cut_off(best["finish_reason"]) if chosen else None,
        "rejected_cut_off": was_cut_off(worst["finish_reason"]) if rejected else None,
        "keep": reason is None,
        "drop_reason": reason,
    }
