"""Responses: K answers to every instruction, sampled from the policy that is to be trained (paper 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from pugc_core.config import Config, digest
from pugc_core.engines.base import CUT_OFF, Sampling, was_cut_off
from pugc_core.measures import Measures, sums
from pugc_core.prompts import responses as contract
from pugc_core.records import define, make_id
from pugc_core.stages.base import Asking, Build, Dropped, Inputs, Sources


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
class Responses(Asking):
    config: ResponsesConfig
    gates: tuple[str, ...] = ("relevance",)
    part: tuple[int, int] | None = None
    """(2, 3) asks about the second of three parts of the posts, by their ids; None about all."""

    name = "responses"
    role = "policy"
    contract: ClassVar[ModuleType] = contract
    after = "instructions"
    unit = "answers"
    sentence = "K answers to every instruction, sampled from the policy that is to be trained."
    table = define(
        "responses",
        "response_id",
        [
            ("response_id", pl.String(), "hash of instruction, draw and text"),
            ("instruction_id", pl.String(), "the instruction it answers"),
            ("draw", pl.Int32(), "which of the K draws"),
            ("text", pl.String(), "the policy's answer"),
            ("n_tokens", pl.Int32(), "tokens of the answer, as the policy counts"),
            ("finish_reason", pl.String(), "stop, length (cut off), or the engine's word for a refusal"),
        ],
    )
    quantity = "tokens"
    sample = ("instruction_id", "text", "n_tokens")
    sources: ClassVar[Sources] = {
        "response_id": [("instructions", "instruction_id")],
        "instruction_id": [("relevance", "instruction_id")],
        "text": [("instructions", "instruction")],
    }
    dropped = Dropped("text")

    @property
    def knobs(self) -> Mapping[str, str]:
        part = {"part": "{} of {}".format(*self.part)} if self.part else {}
        return {"limits": digest([self.config.k, self.config.cut_off]), **part}

    @property
    def draws(self) -> tuple[int, ...]:
        return tuple(range(self.config.k))

    def rows(self, inputs: Inputs) -> pl.DataFrame:
        rows = self.rows_in(inputs)
        if self.part:
            number, parts = self.part
            mine = [int(ugc_id, 16) % parts == number - 1 for ugc_id in rows["ugc_id"]]
            rows = rows.filter(pl.Series(mine, dtype=pl.Boolean()))
        return rows.select("instruction_id", "instruction")

    def build(self, shard: str, inputs: Inputs) -> Build:
        asked = list(self.requests(inputs))
        answers = yield [request for _, request in asked]
        rows = []
        for row, request in asked:
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
                        "response_id": make_id("response", row["instruction_id"], draw, text),
                        "instruction_id": row["instruction_id"],
                        "draw": draw,
                        "text": text,
                        "n_tokens": generation.completion_tokens if generation else None,
                        "finish_reason": finish,
                        "keep": reason is None,
                        "drop_reason": reason,
                    }
                )
        return self.table.frame(rows)

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        return {
            **sums("tokens", frame.filter("keep")["n_tokens"]),
            "answered": frame["text"].count(),
            "cut_off": frame.filter(
                pl.col("text").is_not_null(), pl.col("finish_reason").str.to_lowercase().is_in(CUT_OFF)
            ).height,
        }
