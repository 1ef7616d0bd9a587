"""Relevance: does the post really answer the instruction? True or False, nothing else (paper 3.1)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from pugc_core import records
from pugc_core.config import Config, digest
from pugc_core.engines.base import Request, Sampling
from pugc_core.prompts import base as prompts
from pugc_core.prompts import relevance as contract
from pugc_core.records import Table
from pugc_core.stages.base import Build


class RelevanceConfig(Config):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slots {ugc} and {instruction}."""
    # Not one token, as the paper has it: with a small tokenizer that cuts the word. The constraint ends the answer.
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=16, choices=contract.CHOICES)


@dataclass(frozen=True)
class Relevance:
    config: RelevanceConfig
    model: str
    context: int | None = None
    """The recipe's limit to the model's context; with another, other prompts are too long."""

    name = "relevance"
    role = "relevance_judge"
    table: Table = records.RELEVANCE
    inputs = ("ugc", "instructions")

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
        }

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        wording = self.prompt
        texts = dict(inputs["ugc"].filter(pl.col("keep")).select("ugc_id", "text").iter_rows())
        kept = inputs["instructions"].filter(pl.col("keep"))
        asked = []
        for instruction_id, ugc_id, instruction in kept.select("instruction_id", "ugc_id", "instruction").iter_rows():
            messages = wording.render({"ugc": texts[ugc_id], "instruction": instruction})
            asked.append((instruction_id, Request(self.model, messages, self.config.sampling)))
        answers = yield [request for _, request in asked]
        rows = []
        for instruction_id, request in asked:
            answer = next((g.text for g in answers.of(request)), None)
            relevant = contract.parse(answer) if answer is not None else None
            if answer is None:
                reason = answers.refused(request)
            else:
                reason = {True: None, False: "not_relevant", None: "unparsable"}[relevant]
            rows.append(
                {
                    "instruction_id": instruction_id,
                    "relevant": relevant,
                    "keep": reason is None,
                    "drop_reason": reason,
                }
            )
        return self.table.frame(rows)
