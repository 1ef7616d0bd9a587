"""Instructions: the question a reader would have asked to get this post as the answer (paper 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar, Literal, get_args

import polars as pl
from pydantic import Field

from pugc_core.config import Config, digest
from pugc_core.engines.base import Generation, Sampling
from pugc_core.prompts import instructions as contract
from pugc_core.stages.base import Asking, Build, Dropped, Inputs, Sources
from pugc_core.stages.measures import Measures, sums
from pugc_core.stages.records import define, make_id

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
class Instructions(Asking):
    config: InstructionsConfig

    name = "instructions"
    role = "instructor"
    contract: ClassVar[ModuleType] = contract
    after = "ugc"
    unit = "questions"
    sentence = "For every post that is kept the question that a reader would have asked to get it as the answer."
    table = define(
        "instructions",
        "instruction_id",
        [
            ("instruction_id", pl.String(), "hash of post and instruction"),
            ("ugc_id", pl.String(), "the post it was made from"),
            ("draw", pl.Int32(), "which draw of this post's instructions"),
            ("instruction", pl.String(), "the question the post answers"),
        ],
    )
    quantity = "chars"
    sample = ("instruction",)
    sources: ClassVar[Sources] = {
        "instruction_id": [("ugc", "ugc_id")],
        "ugc_id": [("ugc", "ugc_id")],
        "instruction": [("ugc", "text")],
    }
    dropped = Dropped("instruction")

    @property
    def knobs(self) -> Mapping[str, str]:
        return {
            "examples": digest(self.config.examples),
            "limits": digest([self.config.per_post, self.config.max_chars, sorted(set(self.config.drop))]),
        }

    @property
    def draws(self) -> tuple[int, ...]:
        return tuple(range(self.config.per_post))

    def rows(self, inputs: Inputs) -> pl.DataFrame:
        posts = self.rows_in(inputs).select("ugc_id", ugc="text")
        examples = self.config.examples
        shown = [examples[int(ugc_id, 16) % len(examples)] for ugc_id in posts["ugc_id"]]
        return posts.with_columns(example=pl.Series(shown, dtype=pl.String()))

    def build(self, shard: str, inputs: Inputs) -> Build:
        asked = list(self.requests(inputs))
        answers = yield [request for _, request in asked]
        rows = []
        for row, request in asked:
            ugc_id, seen = row["ugc_id"], set[str]()
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

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        return sums("chars", frame.filter("keep")["instruction"].str.len_chars())


def _folded(text: str) -> str:
    """What makes two instructions the same: neither case nor line breaks."""
    return " ".join(text.lower().split())
