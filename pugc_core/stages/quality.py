"""Quality: a judge rates every post as a source for a question and its answer; the good ones go on (paper 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from pugc_core.config import Config
from pugc_core.engines.base import Generation, Sampling
from pugc_core.measures import Measures, sums
from pugc_core.prompts import quality as contract
from pugc_core.records import define
from pugc_core.stages.base import Dropped, Filter, Inputs, Sources


class QualityConfig(Config):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slot {ugc}."""
    min_score: int = Field(4, ge=1, le=5)
    """Posts below are dropped as `low_quality` (paper: keep 4 and 5)."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=512)


@dataclass(frozen=True)
class Quality(Filter):
    config: QualityConfig

    name = "quality"
    role = "quality_judge"
    contract: ClassVar[ModuleType] = contract
    after = "ugc"
    unit = "scores"
    sentence = (
        "A judge rates every post from 1 to 5 as a source for a question and its answer; those below {min_score} are "
        "dropped."
    )
    table = define(
        "quality",
        "ugc_id",
        [
            ("ugc_id", pl.String(), "the post"),
            ("score", pl.Int8(), "1 to 5; null when the judge's answer did not parse"),
            ("reasoning", pl.String(), "the judge's whole answer"),
        ],
    )
    quantity = "score"
    sample = ("score", "reasoning")
    sources: ClassVar[Sources] = {
        "ugc_id": [("ugc", "ugc_id")],
        "score": [("ugc", "text")],
        "reasoning": [("ugc", "text")],
    }
    dropped = Dropped("text", "ugc", "ugc_id", note="reasoning")

    @property
    def knobs(self) -> Mapping[str, str]:
        return {"threshold": str(self.config.min_score)}

    def rows(self, inputs: Inputs) -> pl.DataFrame:
        return self.rows_in(inputs).select("ugc_id", ugc="text")

    def verdict(self, answer: Generation | None) -> tuple[Mapping[str, Any], str | None]:
        if answer is None:
            return {"score": None, "reasoning": None}, None
        score = contract.parse(answer.text, cut_off=answer.cut_off)
        columns = {"score": score, "reasoning": answer.text}
        if score is None:
            return columns, "unparsable"
        return columns, None if score >= self.config.min_score else "low_quality"

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        scores = frame["score"].drop_nulls()
        by_score = {f"score_{score}": n for score, n in scores.value_counts().sort("score").iter_rows()}
        return {
            "answers": frame["reasoning"].count(),
            "parsed": scores.len(),
            **by_score,
            **sums("score", scores),
        }
