"""Quality: a judge rates every post as a source for a question and its answer; the good ones go on (paper 3.1)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
from pydantic import Field

from pugc_core import records
from pugc_core.config import Config, digest
from pugc_core.engines.base import Request, Sampling
from pugc_core.prompts import base as prompts
from pugc_core.prompts import quality as contract
from pugc_core.records import Table
from pugc_core.stages.base import Build


class QualityConfig(Config):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slot {ugc}."""
    min_score: int = Field(4, ge=1, le=5)
    """Posts below are dropped as `low_quality` (paper: keep 4 and 5)."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=512)


@dataclass(frozen=True)
class Quality:
    config: QualityConfig
    model: str
    context: int | None = None
    """The recipe's limit to the model's context; with another, other prompts are too long."""

    name = "quality"
    role = "quality_judge"
    table: Table = records.QUALITY
    inputs = ("ugc",)

    @functools.cached_property
    def prompt(self) -> prompts.Prompt:
        return prompts.load(self.config.prompt, contract.WORDINGS, slots=contract.SLOTS, markers=contract.MARKERS)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {
            "version": "2",
            "prompt": self.prompt.fingerprint,
            "parser": str(contract.PARSER_VERSION),
            "model": self.model,
            "context": str(self.context),
            "sampling": digest(self.config.sampling.canonical),
            "threshold": str(self.config.min_score),
        }

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        wording = self.prompt
        posts = inputs["ugc"].filter(pl.col("keep"))
        asked = [
            (ugc_id, Request(self.model, wording.render({"ugc": text}), self.config.sampling))
            for ugc_id, text in posts.select("ugc_id", "text").iter_rows()
        ]
        answers = yield [request for _, request in asked]
        rows = []
        for ugc_id, request in asked:
            generation = next(iter(answers.of(request)), None)
            answer = generation.text if generation else None
            score = contract.parse(generation.text, cut_off=generation.cut_off) if generation else None
            if answer is None:
                reason = answers.refused(request)
            elif score is None:
                reason = "unparsable"
            else:
                reason = None if score >= self.config.min_score else "low_quality"
            rows.append(
                {"ugc_id": ugc_id, "score": score, "reasoning": answer, "keep": reason is None, "drop_reason": reason}
            )
        return self.table.frame(rows)
