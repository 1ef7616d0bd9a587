"""Responses: K answers to every instruction, sampled from the policy that is to be trained (paper 3.2)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from pugc_core import records
from pugc_core.config import Config, digest
from pugc_core.engines.base import Request, Sampling, was_cut_off
from pugc_core.prompts import base as prompts
from pugc_core.prompts import responses as contract
from pugc_core.records import Table, make_id
from pugc_core.stages.base import Build


class ResponsesConfig(Config):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slot {instruction}."""
    k: int = Field(5, ge=2)
    """Answers per instruction. Not in the paper's text; 5 stands in the name of its published data file."""
    cut_off: Literal["drop", "keep"] = "drop"
    """Whether answers that max_tokens cut off are dropped as `cut_off`, or judged as they are and marked in pairs and
    dataset: a policy must not learn to end where one was cut."""
    sampling: Sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=2048)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, data: Any) -> Any:
        if isinstance(data, dict) and "drop_unfinished" in data:
            now = "drop" if data["drop_unfinished"] else "keep"
            raise ValueError(f'drop_unfinished is now cut_off: write cut_off = "{now}"')
        return data


@dataclass(frozen=True)
class Responses:
    config: ResponsesConfig
    model: str
    context: int | None = None
    """The recipe's limit to the model's context; with another, other prompts are too long."""

    name = "responses"
    role = "policy"
    table: Table = records.RESPONSES
    inputs = ("instructions", "relevance")

    @functools.cached_property
    def prompt(self) -> prompts.Prompt:
        return prompts.load(self.config.prompt, contract.WORDINGS, slots=contract.SLOTS)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {
            "version": "2",
            "prompt": self.prompt.fingerprint,
            "parser": str(contract.PARSER_VERSION),
            "model": self.model,
            "context": str(self.context),
            "sampling": digest(self.config.sampling.canonical),
            "limits": digest([self.config.k, self.config.cut_off]),
        }

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        wording = self.prompt
        relevant = inputs["relevance"].filter(pl.col("keep")).select("instruction_id")
        kept = inputs["instructions"].filter(pl.col("keep"))
        kept = kept.join(relevant, on="instruction_id", maintain_order="left")
        draws = tuple(range(self.config.k))
        asked = [
            (
                instruction_id,
                Request(self.model, wording.render({"instruction": text}), self.config.sampling, draws),
            )
            for instruction_id, text in kept.select("instruction_id", "instruction").iter_rows()
        ]
        answers = yield [request for _, request in asked]
        rows = []
        for instruction_id, request in asked:
            for draw, generation, refused in answers.by_draw(request):
                text = contract.parse(generation.text) if generation else None
                finish = generation.finish_reason if generation else refused
                if text is None:
                    reason = finish
                elif not text:
                    reason = "empty"
                else:
                    reason = "cut_off" if self.config.cut_off == "drop" and was_cut_off(finish) else None
                rows.append(
                    {
                        "response_id": make_id("response", instruction_id, draw, text),
                        "instruction_id": instruction_id,
                        "draw": draw,
                        "text": text,
                        "n_tokens": generation.completion_tokens if generation else None,
                        "finish_reason": finish,
                        "keep": reason is None,
                        "drop_reason": reason,
                    }
                )
        return self.table.frame(rows)
