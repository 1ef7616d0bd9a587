"""The roles and the policy, asked as the pipeline asks them: prompts, sampling and models of the recipe `laptop`."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pugc_bundled.roles.corpus import Post
from pugc_bundled.tiny.measure import Asker
from pugc_core import recipe
from pugc_core.engines import open_engine
from pugc_core.engines.base import Sampling
from pugc_core.models.spec import ModelSpec
from pugc_core.prompts import instructions, quality, relevance, responses, rewards
from pugc_core.prompts.base import load

SETTINGS = recipe.load("laptop")


class Case(NamedTuple):
    """A response to a question about a post, and what it should earn by rule, 1 to 5."""

    question: str
    response: str
    post: str
    score: float


class Vote(NamedTuple):
    """What the judge said, and the score in it, if any."""

    said: str
    score: int | None


def mean(votes: Sequence[Vote]) -> float | None:
    """The mean of the votes that parse; None where none does."""
    valid = [vote.score for vote in votes if vote.score is not None]
    return statistics.fmean(valid) if valid else None


@dataclass
class Roles:
    """The judges and the instructor, and the policy, asked as the pipeline asks them."""

    roles: Asker
    policy: Callable[[Sequence[str], int], list[list[str]]]

    def votes(
        self, cases: Sequence[Case], shown: Sequence[str] | None = None, sampling: Sampling | None = None
    ) -> list[list[Vote]]:
        """The votes on each case, with its own post as reference or the texts `shown`."""
        prompt = load(SETTINGS.rewards.prompt, rewards.WORDINGS, slots=rewards.SLOTS, markers=rewards.MARKERS)
        references = shown or [case.post for case in cases]
        asked = [
            prompt.render({"instruction": case.question, "response": case.response, "ugc": reference})
            for case, reference in zip(cases, references, strict=True)
        ]
        answers = self.roles(asked, sampling or SETTINGS.rewards.sampling, SETTINGS.rewards.n)
        return [[Vote(said, rewards.parse(said)) for said in draws] for draws in answers]

    def questions(self, posts: Sequence[Post], rng: random.Random) -> list[str]:
        """The instructor's question to each post."""
        prompt = load(SETTINGS.instructions.prompt, instructions.WORDINGS, slots=instructions.SLOTS)
        asked = [prompt.render({"example": rng.choice(instructions.EXAMPLES), "ugc": p.text}) for p in posts]
        return [instructions.parse(a[0]) if a else "" for a in self.roles(asked, SETTINGS.instructions.sampling)]

    def verdicts(self, cases: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Whether each text answers its question."""
        prompt = load(SETTINGS.relevance.prompt, relevance.WORDINGS, slots=relevance.SLOTS)
        asked = [prompt.render({"ugc": text, "instruction": question}) for text, question in cases]
        return [relevance.parse(a[0]) if a else None for a in self.roles(asked, SETTINGS.relevance.sampling)]

    def ratings(self, texts: Sequence[str]) -> list[int | None]:
        """The quality of each text."""
        prompt = load(SETTINGS.quality.prompt, quality.WORDINGS, slots=quality.SLOTS)
        answers = self.roles([prompt.render({"ugc": text}) for text in texts], SETTINGS.quality.sampling)
        return [quality.parse(a[0]) if a else None for a in answers]


class Policy:
    """The policy's answers. Its engine opens when it is first asked."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._asker: Asker | None = None

    def __call__(self, questions: Sequence[str], draws: int) -> list[list[str]]:
        if self._asker is None:
            self._asker = Asker(open_engine(self._spec))
        prompt = load(SETTINGS.responses.prompt, responses.WORDINGS, slots=responses.SLOTS)
        asked = [prompt.render({"instruction": question}) for question in questions]
        return [[responses.parse(a) for a in some] for some in self._asker(asked, SETTINGS.responses.sampling, draws)]

    def close(self) -> None:
        if self._asker is not None:
            self._asker.engine.close()
