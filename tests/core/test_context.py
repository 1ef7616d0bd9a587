"""A context that was too small for an answer: what is refused, and what a larger one is asked again for."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from pugc_core.engines.base import Generation, Refusal, Request, Sampling, refusal
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.ledger.dispatch import answer
from pugc_core.ledger.store import Ledger
from pugc_core.models.spec import UNBOUNDED
from pugc_core.prompts.base import Message
from pugc_core.stages.base import Build

SAMPLING = Sampling(max_tokens=50)
PROMPT = 30


def asked(name: str = "q", draws: tuple[int, ...] = (0,)) -> Request:
    return Request("m@1", (Message("user", name),), SAMPLING, draws)


@dataclass
class Cutting(ScriptedEngine):
    """Answers with 60 tokens or whatever fits into `room` tokens, prompt and answer together."""

    room: int
    asked: list[Request] = field(default_factory=list)
    name = "scripted 1"

    def generate(self, requests) -> Iterator[Generation]:  # type: ignore[no-untyped-def,override]
        for request in requests:
            if request is None:
                continue
            self.asked.append(request)
            for draw in request.draws:
                tokens = min(50, self.room - PROMPT)
                key, seed = request.key(draw), request.seed(draw)
                yield Generation(key, "x" * tokens, "length", PROMPT, tokens, seed, self.name)


def run(ledger: Ledger, engine: Cutting, context: int) -> list[int]:
    """Lengths of the answers to two requests; counts what was asked in `engine`."""

    def build() -> Build:
        answers = yield [asked("q"), asked("other")]
        return pl.DataFrame({"n": [len(answers.of(asked(name))[0].text) for name in ("q", "other")]})

    (finished,) = answer([("a", build())], ledger, lambda: engine, context=context)
    assert isinstance(finished.result, pl.DataFrame)
    return finished.result["n"].to_list()


def test_what_an_old_context_cut_is_asked_again_under_a_larger_one(tmp_path: Path) -> None:
    root = str(tmp_path)
    turns = [
        # (the model's context, lengths, requests made)
        (64, [34, 34], 2),
        (64, [34, 34], 0),  # nothing differs
        (48, [34, 34], 0),  # smaller: what is there stays
        (70, [40, 40], 2),
        (70, [40, 40], 0),
        (UNBOUNDED, [50, 50], 2),  # the model's own, here 512
        (UNBOUNDED, [50, 50], 0),  # ended at max_tokens, which no context changes
        (4096, [50, 50], 0),
    ]
    for context, lengths, made in turns:
        engine = Cutting(room=min(context, 512))
        with Ledger(root, flush_seconds=3600) as ledger:
            assert run(ledger, engine, context) == lengths, context
        assert len(engine.asked) == made, context


def test_an_answer_is_asked_again_once_even_where_it_comes_out_the_same(tmp_path: Path) -> None:
    """The model's own context may be smaller than the one set."""
    for made in (2, 0):
        engine = Cutting(room=64)
        with Ledger(str(tmp_path), flush_seconds=3600) as ledger:
            if made:
                run(ledger, Cutting(room=64), 64)
            assert run(ledger, engine, 128) == [34, 34]
        assert len(engine.asked) == made


def test_which_answers_are_outgrown() -> None:
    def given(finish: str, tokens: int, context: int = 0, engine: str = "vllm 1") -> Generation:
        return Generation(b"k" * 32, "", finish, PROMPT, tokens, 1, engine, context)

    cases = [
        (given("length", 34), 65, True),
        (given("length", 34), 64, False),  # the context is the sum where an old ledger does not say it
        (given("length", 34, 64), 65, True),
        (given("length", 34, 128), 65, False),
        (given("length", 50), 4096, False),  # cut by max_tokens
        (given("stop", 34), 4096, False),
        (given("length", 34, engine="endpoint 1"), 4096, False),  # its server's context, and a count that is a share
        (given("length", 34, 64, engine="endpoint 1"), 4096, True),
        (given("length", 34), 0, False),  # nobody says what the context is
    ]
    for generation, context, wanted in cases:
        assert generation.outgrown(SAMPLING, context) is wanted, (generation, context)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "limit", "reason"),
    [
        (974, 50, 1024, None),
        (975, 50, 1024, "no_room_for_answer"),
        (1024, 50, 1024, "prompt_too_long"),
        (9999, 50, 1024, "prompt_too_long"),
        # At most half of the context is kept free: a generous max_tokens does not refuse every prompt.
        (512, 4096, 1024, None),
        (513, 4096, 1024, "no_room_for_answer"),
    ],
)
def test_room_is_kept_for_the_answer(prompt: int, max_tokens: int, limit: int, reason: str | None) -> None:
    request = Request("m@1", (), Sampling(max_tokens=max_tokens))
    assert refusal(request, prompt, limit) == (Refusal(request, reason) if reason else None)
