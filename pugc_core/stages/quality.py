"""Quality: a judge rates every post as a source for a question and its answer; the good ones go on (paper 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import polars as pl
from pydantic import Field, model_validator

from pugc_core.engines.base import Generation, Sampling
from pugc_core.prompts import quality as contract
from pugc_core.stages.base import Dropped, Filter, FilterConfig, Inputs, Sources
from pugc_core.stages.measures import Measures, sums
from pugc_core.stages.records import define


class QualityConfig(FilterConfig):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slot {ugc}."""
    min_score: int = Field(4, ge=1, le=5)
    """Posts below are dropped as `low_quality` (paper: keep 4 and 5)."""
    max_score: int = Field(5, ge=1, le=5)
    """Posts above are dropped as `above_max_score`: with `min_score` a band of quality, as in the paper's figure 4."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=512)

    @model_validator(mode="after")
    def _ordered(self) -> QualityConfig:
        if self.max_score < self.min_score:
            raise ValueError(f"max_score ({self.max_score}) is below min_score ({self.min_score})")
        return self


@dataclass(frozen=True)
class Quality(Filter):
    config: QualityConfig

    name = "quality"
    role = "quality_judge"
    contract: ClassVar[ModuleType] = contract
    after = "ugc"
    unit = "scores"
    sentence = (
        "A judge rates every post from 1 to 5 as a source for a question and its answer; those rated {min_score} to "
        "{max_score} go on."
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
        least, most = self.config.min_score, self.config.max_score
        # Named only where there is one, so that tables from before there was a choice stay current.
        return {"threshold": str(least) if most == 5 else f"{least} to {most}"}

    def rows(self, inputs: Inputs) -> pl.DataFrame:
        return self.rows_in(inputs).select("ugc_id", ugc="text")

    def verdict(self, answer: Generation | None) -> tuple[Mapping[str, Any], str | None]:
        if answer is None:
            return {"score": None, "reasoning": None}, None
        score = contract.parse(answer.text, cut_off=answer.cut_off)
        columns = {"score": score, "reasoning": answer.text}
        if score is None:
            return columns, "unparsable"
        if score > self.config.max_score:
            return columns, "above_max_score"
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
