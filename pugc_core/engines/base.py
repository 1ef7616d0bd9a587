"""The one seam between the method and the models: requests in, generations out, in completion order.

An engine is one small method. `requests` may be endless and may depend on what was answered before (extra votes), so
it is pulled as there is room and may yield None for "nothing to ask just now". An engine with work in hand goes on
with it and asks again; an engine with none yields None itself, which gives its caller the turn. `serve` is that loop,
shared by all engines.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import Field, model_validator

from pugc_core.config import Config
from pugc_core.prompts.base import Message


class Sampling(Config):
    """How one answer is drawn. Part of the ledger key; fields at their default do not enter it, so that a field
    added later leaves every old key valid."""

    temperature: float = Field(1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """So many of the likeliest tokens to draw from; 0 takes all. On a CPU it costs far less than `top_p`, which sorts
    the whole vocabulary for every token."""
    max_tokens: int = Field(512, gt=0)
    """Longest answer, in the model's own tokens."""
    repetition_penalty: float = Field(1.0, gt=0)
    """What the logit of a token is divided by (multiplied, where it is negative) that prompt or answer has already."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """What is taken off the logit of a token for each time that the answer, not the prompt, has it already."""
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """When set, the answer is exactly one of these strings; the engine enforces it."""
    regex: str = ""
    """When set, the whole answer matches this pattern; the engine enforces it."""

    @model_validator(mode="after")
    def _one_constraint(self) -> Sampling:
        if self.choices and self.regex:
            raise ValueError("choices and regex exclude each other")
        return self

    @functools.cached_property
    def canonical(self) -> str:
        """JSON of the fields that differ from their defaults, the form that is hashed."""
        return json.dumps(self.model_dump(exclude_defaults=True, mode="json"), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Request:
    """One prompt and the draws wanted from it; draws of a prompt share its prefill when asked for together."""

    model: str
    """Identity of the model, "id@revision": what the ledger files the answer under."""
    messages: tuple[Message, ...]
    sampling: Sampling
    draws: tuple[int, ...] = (0,)

    @functools.cached_property
    def digest(self) -> bytes:
        """sha256 over everything but the draw number (32 bytes)."""
        parts = [self.model, self.sampling.canonical, *(part for message in self.messages for part in message)]
        return hashlib.sha256("\x1f".join(f"{len(p)}:{p}" for p in parts).encode()).digest()

    def key(self, draw: int) -> bytes:
        """Ledger key of one draw (32 bytes): sha256(model, messages, sampling, draw)."""
        return hashlib.sha256(self.digest + draw.to_bytes(4, "big")).digest()

    def seed(self, draw: int) -> int:
        """Seed of one draw. Consecutive draws have consecutive seeds, as vLLM gives the n outputs of a request."""
        return int.from_bytes(self.digest[:4], "big") // 2 + draw


CUT_OFF = ("length", "max_tokens", "model_length", "content_filter", "abort")
"""Finish reasons of a text that the model did not end itself: those of OpenAI's protocol and of the engines here, and
what servers of other makes say (max_tokens: Anthropic, Gemini; model_length: Mistral)."""


def was_cut_off(finish_reason: str | None) -> bool:
    """Whether a finish reason, in whatever case, is one of CUT_OFF. A server that gives none is taken at its word."""
    return (finish_reason or "").lower() in CUT_OFF


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer, raw, as the ledger stores it."""

    key: bytes
    text: str
    finish_reason: str
    """"stop", "length", or what the engine said."""
    prompt_tokens: int
    completion_tokens: int
    seed: int
    engine: str
    context: int = 0
    """Context in tokens that it was made under; 0 where nobody wrote it down."""

    def outgrown(self, sampling: Sampling, context: int) -> bool:
        """Whether a full context cut it, and `context` is a larger one, so that it is worth asking again."""
        if self.finish_reason != "length" or self.completion_tokens >= sampling.max_tokens:
            return False
        if not self.context and self.engine.startswith("endpoint"):
            return False  # its server's context, which no setting here enlarges
        return max(self.context, self.prompt_tokens + self.completion_tokens) < context

    @property
    def cut_off(self) -> bool:
        """Whether the text was ended from outside, so that it may lack words."""
        return was_cut_off(self.finish_reason)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The engine will not answer these draws of a request; never stored, since other settings may allow it."""

    request: Request
    reason: str
    """A drop reason: "prompt_too_long", "no_room_for_answer" (the prompt fits, the answer does not), "no_content".
    The last may be said of some draws, while the others are answered."""


Answer = Generation | Refusal


@runtime_checkable
class Engine(Protocol):
    """Anything that answers requests. Every draw of a request is in one Generation or in one Refusal."""

    name: str
    """Engine and version, for the record: "vllm 0.32.0"."""

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]: ...

    def close(self) -> None: ...


def folded(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A leading system text put before the first user text, for chat formats without a place for it."""
    if len(messages) < 2 or messages[0].role != "system":
        return tuple(messages)
    system, first, *rest = messages
    return (Message(first.role, f"{system.content}\n{first.content}"), *rest)


def refusal(request: Request, prompt_tokens: int, limit: int) -> Refusal | None:
    """Why a prompt is not asked of a model with a context of `limit` tokens; None where it is.

    Room is kept for the longest answer, `max_tokens`, as servers keep it, so that a full context cuts no answer; but
    for half of the context at most, else a generous `max_tokens` would refuse every prompt.
    """
    room = min(request.sampling.max_tokens, limit // 2)
    if prompt_tokens + room <= limit:
        return None
    return Refusal(request, "prompt_too_long" if prompt_tokens >= limit else "no_room_for_answer")


def serve(
    requests: Iterable[Request | None],
    *,
    capacity: int,
    add: Callable[[Request], Refusal | None],
    step: Callable[[], Iterable[tuple[int, Sequence[Answer]]]],
) -> Iterator[Answer | None]:
    """The intake loop of an engine that works in steps.

    `add` takes a request in or refuses it at once. `step` does a piece of work and reports what came of it: pairs of
    (how many requests this completed, their answers). `capacity` bounds the requests in hand.
    """
    source = iter(requests)
    in_hand, more = 0, True
    while more or in_hand:
        while more and in_hand < capacity:
            try:
                request = next(source)
            except StopIteration:
                more = False
                break
            if request is None:
                break
            refusal = add(request)
            if refusal is None:
                in_hand += 1
            else:
                yield refusal
        if in_hand:
            for completed, answers in step():
                in_hand -= completed
                yield from answers
        elif more:
            yield None
