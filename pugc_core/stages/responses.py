"""Responses: K answers to every instruction, sampled from the policy that is to be trained (paper 3.2)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from pugc_core.config import Config, digest
from pugc_core.engines.base import CUT_OFF, Generation, Request, Sampling, was_cut_off
from pugc_core.prompts import base as prompts
from pugc_core.prompts import responses as contract
from pugc_core.stages import near
from pugc_core.stages.base import Asking, Build, Dropped, Inputs, Sources
from pugc_core.stages.measures import Measures, sums
from pugc_core.stages.records import define, make_id


class ResponsesConfig(Config):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slot {instruction}."""
    k: int = Field(5, ge=2)
    """Answers per instruction. Not in the paper's text; 5 stands in the name of its published data file."""
    cut_off: Literal["drop", "keep"] = "drop"
    """Whether answers that max_tokens cut off are dropped as `cut_off`, or judged as they are and marked in pairs and
    dataset: a policy must not learn to end where one was cut."""
    vary: str = "sampling"
    """How the answers to one instruction come to differ: `sampling` alone, or by one that is made after the other, each
    shown those before it and asked for another one. Then this is a wording for the second and those after it,
    `earlier` or `earlier-brief`, or the path of a prompt file with the slots {instruction} and {earlier}. Pairs and
    training have the plain instruction all the same. A form of the negatively correlated sampling of candidates of
    Community Alignment (Zhang et al., arXiv 2507.09650), which asks for all of them in one answer."""
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
    part: tuple[int, int] | None = field(default=None, kw_only=True)
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
    format = 3
    quantity = "tokens"
    sample = ("instruction_id", "text", "n_tokens")
    sources: ClassVar[Sources] = {
        "response_id": [("instructions", "instruction_id")],
        "instruction_id": [("instructions", "instruction_id")],
        "text": [("instructions", "instruction")],
    }
    dropped = Dropped("text")

    @property
    def knobs(self) -> Mapping[str, str]:
        # Named only where there is one, so that tables from before there was a choice stay current.
        part = {"part": "{} of {}".format(*self.part)} if self.part else {}
        vary = {"vary": self.varied.fingerprint} if self.varied else {}
        return {"limits": digest([self.config.k, self.config.cut_off]), **part, **vary}

    @functools.cached_property
    def varied(self) -> prompts.Prompt | None:
        """The wording that shows earlier answers; None where answers are drawn independently of each other."""
        if self.config.vary == "sampling":
            return None
        return prompts.load(self.config.vary, contract.VARIED, slots=contract.VARIED_SLOTS)

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

    def sent(self, row: Mapping[str, Any], draws: Sequence[int], given: Sequence[str | None]) -> Request:
        """What is asked for these draws when the draws before them have given these texts."""
        earlier = [text for text in given if text]
        if self.varied is None or not earlier:
            return self.request(row, draws)
        messages = self.varied.render({"instruction": row["instruction"], "earlier": contract.listed(earlier)})
        return Request(self.asked or self.model, messages, self.sampling, tuple(draws))

    def build(self, shard: str, inputs: Inputs) -> Build:
        instructions = list(self.rows(inputs).iter_rows(named=True))
        made: list[list[dict[str, Any]]] = [[] for _ in instructions]
        for draws in [(draw,) for draw in self.draws] if self.varied else [self.draws]:
            asked = [
                self.sent(row, draws, [other["text"] for other in others])
                for row, others in zip(instructions, made, strict=True)
            ]
            answers = yield asked
            for row, request, others in zip(instructions, asked, made, strict=True):
                others.extend(self._row(row, *drawn) for drawn in answers.by_draw(request))
        return self.table.frame(row for rows in made for row in rows)

    def _row(
        self, row: Mapping[str, Any], draw: int, generation: Generation | None, refused: str | None
    ) -> dict[str, Any]:
        text = contract.parse(generation.text) if generation else None
        finish = generation.finish_reason if generation else refused
        if text is None:
            reason = finish
        elif not text:
            reason = "empty"
        else:
            reason = "cut_off" if self.config.cut_off == "drop" and was_cut_off(finish) else None
        return {
            "response_id": make_id("response", row["instruction_id"], draw, text),
            "instruction_id": row["instruction_id"],
            "draw": draw,
            "text": text,
            "n_tokens": generation.completion_tokens if generation else None,
            "finish_reason": finish,
            "keep": reason is None,
            "drop_reason": reason,
        }

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        """`similarity` is that of the answers to one instruction, of which each counts once (`near.overlap`)."""
        kept = frame.filter("keep")
        together = kept.group_by("instruction_id", maintain_order=True).agg("text")["text"]
        alike = [near.overlap(texts) for texts in together.to_list()]
        return {
            **sums("tokens", kept["n_tokens"]),
            **sums("similarity", pl.Series(alike, dtype=pl.Float64)),
            "answered": frame["text"].count(),
            "cut_off": frame.filter(
                pl.col("text").is_not_null(), pl.col("finish_reason").str.to_lowercase().is_in(CUT_OFF)
            ).height,
        }
