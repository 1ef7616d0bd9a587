"""Relevance: does the post really answer the instruction? True or False, nothing else (paper 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import polars as pl

from pugc_core.engines.base import Generation, Sampling
from pugc_core.prompts import relevance as contract
from pugc_core.stages.base import Dropped, Filter, FilterConfig, Inputs, Sources
from pugc_core.stages.measures import Measures
from pugc_core.stages.records import define


class RelevanceConfig(FilterConfig):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slots {ugc} and {instruction}."""
    # Not one token, as the paper has it: with a small tokenizer that cuts the word. The constraint ends the answer.
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=16, choices=contract.CHOICES)


@dataclass(frozen=True)
class Relevance(Filter):
    config: RelevanceConfig

    name = "relevance"
    role = "relevance_judge"
    contract: ClassVar[ModuleType] = contract
    after = "instructions"
    reads = ("ugc",)
    unit = "checks"
    sentence = "A filter that keeps only instructions which their post really answers: True or False."
    table = define(
        "relevance",
        "instruction_id",
        [
            ("instruction_id", pl.String(), "the instruction"),
            ("relevant", pl.Boolean(), "whether the post answers it; null when the answer did not parse"),
        ],
    )
    sample = ("instruction_id", "relevant")
    sources: ClassVar[Sources] = {
        "instruction_id": [("instructions", "instruction_id")],
        "relevant": [("ugc", "text"), ("instructions", "instruction")],
    }
    dropped = Dropped("instruction", "instructions", "instruction_id")

    def rows(self, inputs: Inputs) -> pl.DataFrame:
        posts = inputs["ugc"].filter("keep").select("ugc_id", ugc="text")
        kept = self.rows_in(inputs).join(posts, on="ugc_id", how="left", maintain_order="left")
        return kept.select("instruction_id", "ugc", "instruction")

    def verdict(self, answer: Generation | None) -> tuple[Mapping[str, Any], str | None]:
        relevant = contract.parse(answer.text) if answer else None
        return {"relevant": relevant}, {True: None, False: "not_relevant", None: "unparsable"}[relevant]

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        parsed = frame["relevant"].drop_nulls()
        unparsable = frame.filter(pl.col("drop_reason") == "unparsable").height
        return {"answers": parsed.len() + unparsable, "parsed": parsed.len(), "relevant": int(parsed.sum())}
