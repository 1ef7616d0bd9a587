"""Instructions: the question a reader would have asked to get this post as the answer (paper 3.1)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl
from pydantic import Field

from pugc_core import records
from pugc_core.config import Config, digest
from pugc_core.engines.base import Generation, Request, Sampling
from pugc_core.prompts import base as prompts
from pugc_core.prompts import instructions as contract
from pugc_core.records import Table, make_id
from pugc_core.stages.base import Build

Drop = Literal["cut_off", "refusal", "refers_to_context", "duplicate"]


class InstructionsConfig(Config):
    prompt: str = "default"
    """A bundled wording or the path of a prompt file with the slots {example} and {ugc}."""
    examples: tuple[str, ...] = Field(contract.EXAMPLES, min_length=1)
    """One of these is shown with each post, picked by the post's id."""
    per_post: int = Field(1, ge=1)
    """Instructions drawn for each post."""
    max_chars: int = Field(1000, ge=1)
    """Longer ones are dropped as `too_long`."""
    drop: tuple[Drop, ...] = get_args(Drop)
    """What is dropped besides the empty and the too long: what max_tokens has `cut_off`, a `refusal` to write one, what
    `refers_to_context` that its reader will not see, and a `duplicate` of another draw of the same post."""
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=256)


@dataclass(frozen=True)
class Instructions:
    config: InstructionsConfig
    model: str
    context: int | None = None
    """The recipe's limit to the model's context; with another, other prompts are too long."""

    name = "instructions"
    role = "instructor"
    table: Table = records.INSTRUCTIONS
    inputs = ("ugc", "quality")

    @functools.cached_property
    def prompt(self) -> prompts.Prompt:
        return prompts.load(self.config.prompt, contract.WORDINGS, slots=contract.SLOTS, markers=contract.MARKERS)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {
            "version": "2",
            "prompt": self.prompt.fingerprint,
            "examples": digest(self.config.examples),
            "parser": str(contract.PARSER_VERSION),
            "model": self.model,
            "context": str(self.context),
            "sampling": digest(self.config.sampling.canonical),
            "limits": digest([self.config.per_post, self.config.max_chars, sorted(set(self.config.drop))]),
        }

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        wording = self.prompt
        good = inputs["quality"].filter(pl.col("keep")).select("ugc_id")
        posts = inputs["ugc"].filter(pl.col("keep")).join(good, on="ugc_id", maintain_order="left")
        draws = tuple(range(self.config.per_post))
        asked = []
        for ugc_id, text in posts.select("ugc_id", "text").iter_rows():
            example = self.config.examples[int(ugc_id, 16) % len(self.config.examples)]
            messages = wording.render({"example": example, "ugc": text})
            asked.append((ugc_id, Request(self.model, messages, self.config.sampling, draws)))
        answers = yield [request for _, request in asked]
        rows = []
        for ugc_id, request in asked:
            seen: set[str] = set()
            for draw, generation, refused in answers.by_draw(request):
                text = contract.parse(generation.text) if generation else None
                twin = text is not None and _folded(text) in seen
                reason = self._judge(text or "", generation, twin) if generation else refused
                seen.add(_folded(text or ""))
                rows.append(
                    {
                        # Twins and what was dropped may share the text, so the draw sets their ids apart.
                        "instruction_id": make_id("instruction", ugc_id, text, *([draw] if reason or twin else [])),
                        "ugc_id": ugc_id,
                        "draw": draw,
                        "instruction": text,
                        "keep": reason is None,
                        "drop_reason": reason,
                    }
                )
        return self.table.frame(rows)

    def _judge(self, text: str, generation: Generation, twin: bool) -> str | None:
        if not text:
            return "empty"
        # First what the model itself says of it; what else may be amiss with half a question does not matter.
        found: Mapping[Drop, bool] = {
            "cut_off": generation.cut_off,
            "refusal": contract.refuses(text),
            "refers_to_context": contract.refers_to_context(text),
            "duplicate": twin,
        }
        if len(text) > self.config.max_chars and not (found["cut_off"] and "cut_off" in self.config.drop):
            return "too_long"
        return next((reason for reason, hit in found.items() if hit and reason in self.config.drop), None)


def _folded(text: str) -> str:
    """What makes two instructions the same: neither case nor line breaks."""
    return " ".join(text.lower().split())
