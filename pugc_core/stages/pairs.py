"""Pairs: the best response against the worst, by reward (paper 3.4).

Tie at the top: the shortest. Tie at the bottom: the longest. All tied: no preference was expressed, so no pair.
Chosen and rejected never have the same text. The post goes along, with its licence and where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from pugc_core.config import Config, digest
from pugc_core.engines.base import was_cut_off
from pugc_core.stages.base import Build, Dropped, Inputs, Sources, Stage
from pugc_core.stages.measures import Measures, sums
from pugc_core.stages.records import ORIGIN, ORIGIN_COLUMNS, define, make_id

Candidate = Mapping[str, Any]
_OF_POST = ("line", "title", "thread", *ORIGIN)
"""What a pair carries of its post besides the text: where it comes from, and what the split goes by."""


class PairsConfig(Config):
    min_margin: float = Field(0.0, ge=0)
    """Pairs whose rewards differ by less are dropped as `small_margin`."""
    all_tied: Literal["drop", "length"] = "drop"
    """When every response has the same reward: no pair (`all_tied`), or the shortest against the longest."""


@dataclass(frozen=True)
class Pairs(Stage):
    config: PairsConfig

    name = "pairs"
    after = "responses"
    reads = ("ugc", "instructions", "rewards")
    sentence = "The best response against the worst: preferences that nobody had to label."
    table = define(
        "pairs",
        "pair_id",
        [
            ("pair_id", pl.String(), "hash of the two responses"),
            ("instruction_id", pl.String(), "the instruction"),
            ("ugc_id", pl.String(), "the post that served as reference"),
            ("instruction", pl.String(), "the instruction's text"),
            ("line", pl.Int64(), "line of the post in its file"),
            ("post", pl.String(), "the post's text"),
            *ORIGIN_COLUMNS,
            ("title", pl.String(), "the post's title"),
            ("thread", pl.String(), "conversation the post belongs to, as its source names it"),
            ("chosen_response_id", pl.String(), "the better response"),
            ("rejected_response_id", pl.String(), "the worse response"),
            ("chosen", pl.String(), "its text"),
            ("rejected", pl.String(), "its text"),
            ("chosen_reward", pl.Float64(), "its reward"),
            ("rejected_reward", pl.Float64(), "its reward"),
            ("margin", pl.Float64(), "chosen_reward - rejected_reward"),
            ("chosen_tokens", pl.Int32(), "its length"),
            ("rejected_tokens", pl.Int32(), "its length"),
            ("chosen_cut_off", pl.Boolean(), "whether its text was cut off, so that it has no end"),
            ("rejected_cut_off", pl.Boolean(), "whether its text was cut off"),
        ],
    )
    checks = ("distinct_texts",)
    quantity = "margin"
    sources: ClassVar[Sources] = {
        "instruction_id": [("instructions", "instruction_id")],
        "ugc_id": [("instructions", "ugc_id")],
        "instruction": [("instructions", "instruction")],
        "chosen_response_id": [("responses", "response_id"), ("rewards", "reward")],
        "rejected_response_id": [("responses", "response_id"), ("rewards", "reward")],
        "chosen": [("responses", "text"), ("rewards", "reward")],
        "rejected": [("responses", "text"), ("rewards", "reward")],
        "margin": [("rewards", "reward")],
        "chosen_cut_off": [("responses", "finish_reason")],
        "post": [("ugc", "text")],
        **{name: [("ugc", name)] for name in _OF_POST},
    }
    dropped = Dropped("instruction", note="chosen")

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {"version": "2", "ties": self.config.all_tied, "margin": digest(self.config.min_margin)}

    def build(self, shard: str, inputs: Inputs) -> Build:
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

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        kept = frame.filter("keep")
        return {
            **sums("margin", kept["margin"]),
            **sums("chosen_tokens", kept["chosen_tokens"]),
            **sums("rejected_tokens", kept["rejected_tokens"]),
            "cut_off": int((kept["chosen_cut_off"] | kept["rejected_cut_off"]).sum()),
        }


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
