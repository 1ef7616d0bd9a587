"""An engine that answers from a script: for tests, for timing what is not the model, and for trying out a recipe.

Canned answers run out loudly; computed ones never do. Faults are injected by request number. What was asked is
recorded in `requests`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pugc_core.engines.base import Answer, Generation, Refusal, Request, serve
from pugc_core.errors import EngineError

Script = Callable[[Request, int], str]

_REASONS = ("clear steps and real detail", "the main point is there", "thin and generic", "off the question")
_WORDS = [
    "warm",
    "water",
    "slow",
    "steady",
    "light",
    "clean",
    "simple",
    "fresh",
    "small",
    "careful",
    "early",
    "dry",
    "gentle",
    "even",
    "strong",
    "ready",
]


def plausible(request: Request, draw: int) -> str:
    """An answer in the form that the prompt asks for, computed from its digest: the same request, the same answer."""
    noise = request.key(draw)
    if request.messages[-1].role == "assistant":  # a conversation to be scored
        return repr(noise[1] / 8 - 8)
    if request.sampling.choices:
        # Mostly the first choice, so that a chain of filters lets enough through.
        return request.sampling.choices[0 if noise[0] < 230 else noise[1] % len(request.sampling.choices)]
    prompt = request.messages[-1].content
    if "[RESULT]" in prompt:
        # About one vote in fifty does not parse, as with real judges.
        mark = "" if noise[0] < 5 else f" [RESULT] {1 + (request.digest[0] % 4 + noise[1] % 2)}"
        return f"The response shows {_REASONS[noise[2] % 4]}.{mark}"
    if "Score: " in prompt:
        return f"The text has {_REASONS[noise[2] % 4]}.\nScore: {5 - min(noise[3] // 52, 4) // 2 * 2}"
    words = " ".join(_WORDS[b % len(_WORDS)] for b in noise[: 8 + noise[4] % 12])
    return f"How do I keep it {words}?" if "<context start>" in prompt else f"Keep it {words}."


class ScriptedEngine:
    """Answers by `script`: a function of (request, draw), a mapping from the last message's text, or a sequence
    that is used up in order.

    `delay` seconds are slept per request (to be killed in the middle of a run). `faults` maps a request's number
    (from 0) to an exception to raise or a reason to refuse it with. `journal` names a file that gets a line
    "seconds key" per answer, which outlives the process.
    """

    name = "scripted 1"

    def __init__(
        self,
        script: Script | Mapping[str, str] | Sequence[str] = plausible,
        *,
        delay: float = 0.0,
        capacity: int = 64,
        faults: Mapping[int, Exception | str] | None = None,
        journal: str | None = None,
    ) -> None:
        self._script = script if callable(script) else _canned(script)
        self._delay = delay
        self._capacity = capacity
        self._faults = dict(faults or {})
        self._journal = journal
        self._queue: deque[Request] = deque()
        self.requests: list[Request] = []
        self.closed = False

    @property
    def calls(self) -> int:
        """Draws answered or refused so far."""
        return sum(len(r.draws) for r in self.requests)

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        self._queue.clear()
        return serve(requests, capacity=self._capacity, add=self._add, step=self._step)

    def close(self) -> None:
        self.closed = True

    def _add(self, request: Request) -> Refusal | None:
        fault = self._faults.get(len(self.requests))
        self.requests.append(request)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            return Refusal(request, fault)
        self._queue.append(request)
        return None

    def _step(self) -> Iterator[tuple[int, list[Generation]]]:
        # Last in, first out: completion order differs from request order, as with every real engine.
        request = self._queue.pop()
        if self._delay:
            time.sleep(self._delay)
        prompt_tokens = sum(len(m.content.split()) for m in request.messages)
        answers = []
        for draw in request.draws:
            text = self._script(request, draw)
            answers.append(
                Generation(
                    request.key(draw), text, "stop", prompt_tokens, len(text.split()), request.seed(draw), self.name
                )
            )
        if self._journal:
            with open(self._journal, "a", encoding="ascii") as journal:
                journal.writelines(f"{time.time():.3f} {answer.key.hex()}\n" for answer in answers)
        yield 1, answers


def _canned(answers: Mapping[str, str] | Sequence[str]) -> Script:
    if isinstance(answers, Mapping):

        def look_up(request: Request, draw: int) -> str:
            try:
                return answers[request.messages[-1].content]
            except KeyError:
                raise EngineError(
                    f"the script has no answer for {request.messages[-1].content[:80]!r}", fix="add it to the script"
                ) from None

        return look_up
    left = deque(answers)

    def take(request: Request, draw: int) -> str:
        if not left:
            raise EngineError(f"the script ran out after {len(answers)} answers", fix="script more answers")
        return left.popleft()

    return take
