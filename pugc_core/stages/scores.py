"""Rewards by a classifier: a reward model reads instruction and response as a conversation and gives one score.

The second kind of judge, beside the one that votes in words (`stages.rewards`). It is asked once per response, and its
score is the reward, on the model's own scale. The table is the same: one valid answer, spread 0, the score as feedback.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from pugc_core.engines.base import Request, Sampling
from pugc_core.errors import RecipeError
from pugc_core.prompts import conversations as contract
from pugc_core.prompts.base import Message, Prompt, neutralise
from pugc_core.stages.base import Answers, Build, Inputs
from pugc_core.stages.rewards import REFERENCE, Rewards

SCORING = Sampling(temperature=0.0, max_tokens=1)
"""Nothing is drawn: it only makes the request's key."""


@dataclass(frozen=True)
class Scores(Rewards):
    """Of `[rewards]`, only `prompt` and `reference` shape its table: the other knobs are of votes."""

    contract: ClassVar[ModuleType] = contract
    sentence = (
        "One score of the reward model on every response to its instruction: the reward, on the model's own scale."
    )

    @functools.cached_property
    def prompt(self) -> Prompt:
        prompt = contract.load(self.config.prompt)
        reference, shown = self.config.reference, contract.POST in prompt.slots
        if reference == "none" and shown:
            raise RecipeError(
                f"[rewards] reference = {reference!r}, but prompt = {self.config.prompt!r} shows the post",
                fix="take {ugc} out of the text, or remove reference",
            )
        if reference == "random" and not shown:
            raise RecipeError(
                f"[rewards] reference = {reference!r}, but the classifier is shown no post",
                fix="remove reference, or name a prompt file with the slot {ugc}",
            )
        return prompt

    @property
    def knobs(self) -> Mapping[str, str]:
        votes = super().knobs
        return {"judge": "classifier", **({REFERENCE: votes[REFERENCE]} if REFERENCE in votes else {})}

    @property
    def sampling(self) -> Sampling:
        return SCORING

    @property
    def draws(self) -> tuple[int, ...]:
        return (0,)

    def request(self, row: Mapping[str, Any], draws: Sequence[int] | None = None) -> Request:
        asked = self.prompt.render({slot: row[slot] for slot in self.prompt.slots})
        messages = (*asked, Message("assistant", neutralise(row["response"])))
        return Request(self.model, messages, self.sampling, self.draws if draws is None else tuple(draws))

    def build(self, shard: str, inputs: Inputs) -> Build:
        rows = list(self.rows(inputs).iter_rows(named=True))
        asked = [self.request(row) if self._askable(row) else None for row in rows]
        answers = yield [request for request in asked if request]
        return self.table.frame(self._scored(row, request, answers) for row, request in zip(rows, asked, strict=True))

    def _askable(self, row: Mapping[str, Any]) -> bool:
        """Whether there is a post to show, where one is to be shown."""
        return all(row[slot] is not None for slot in self.prompt.slots)

    @staticmethod
    def _scored(row: Mapping[str, Any], request: Request | None, answers: Answers) -> dict[str, Any]:
        answer = next(iter(answers.of(request)), None) if request else None
        score = contract.parse(answer.text) if answer else None
        reason = None
        if request is None:
            reason = "no_other_post"
        elif score is None:
            reason = answers.refused(request) or "unparsable"
        return {
            "response_id": row["response_id"],
            "instruction_id": row["instruction_id"],
            "votes": [{"draw": 0, "score": None, "feedback": answer.text}] if answer else [],
            "n_valid": int(score is not None),
            "reward": score,
            "spread": None if score is None else 0.0,
            "keep": reason is None,
            "drop_reason": reason,
        }
