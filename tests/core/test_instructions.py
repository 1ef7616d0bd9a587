"""Stage instructions: the question a reader would have asked; what is no question is dropped with its reason."""

from dataclasses import replace

import polars as pl
import pytest
from helpers.stages import changed, drive, ident, posts, refuse, table
from pydantic import ValidationError

from pugc_core.engines.base import Sampling
from pugc_core.stages import STAGES
from pugc_core.stages.instructions import Instructions, InstructionsConfig

STAGE = Instructions(InstructionsConfig(), "policy@1", gates=("quality",))


def quality(*good: str, bad: tuple[str, ...] = ()) -> pl.DataFrame:
    rows = [{"ugc_id": ident(t), "score": 5} for t in good]
    return table(
        STAGES["quality"].table, [*rows, *({"ugc_id": ident(t), "score": 1, "drop_reason": "low_quality"} for t in bad)]
    )


def make(stage: Instructions, answers: object, *texts: str):
    return drive(stage, answers, ugc=posts(*texts), quality=quality(*texts))  # type: ignore[arg-type]


def test_reasons() -> None:
    answers = {
        "post-a": "Question: How do I prune a rose?",
        "post-b": "  </s>",
        "post-c": "What does the text say?",
        "post-d": "Why " + "so " * 400 + "?",
        "post-e": None,
    }
    run = make(STAGE, answers, *answers)
    assert run.rows("ugc_id") == [ident(t) for t in answers]
    assert run.rows("drop_reason") == [None, "empty", "refers_to_context", "too_long", "prompt_too_long"]
    assert run.rows("instruction")[:3] == ["How do I prune a rose?", "", "What does the text say?"]
    assert run.rows("instruction")[4] is None
    assert run.counts.rows_in == 5
    assert run.counts.kept == 1


def test_only_good_posts_are_asked_and_in_their_order() -> None:
    run = drive(
        STAGE,
        lambda request, draw: f"How {draw}?",
        ugc=posts("post-c", "post-a", "post-b", dropped=["post-x"]),
        quality=quality("post-b", "post-c", bad=("post-a",)),
    )
    assert run.rows("ugc_id") == [ident("post-c"), ident("post-b")]


def test_length_limit_is_inclusive() -> None:
    stage = replace(STAGE, config=InstructionsConfig(max_chars=5))
    run = make(stage, {"post-a": "12345", "post-b": "123456"}, "post-a", "post-b")
    assert run.rows("drop_reason") == [None, "too_long"]


def test_several_per_post_and_their_twins() -> None:
    stage = replace(STAGE, config=InstructionsConfig(per_post=4))
    answers = {"post-a": ["How?", "HOW?", "Why?", " How? "], "post-b": ["How?", "", "", "What?"]}
    run = make(stage, answers, *answers)
    assert [r.draws for r in run.requests] == [(0, 1, 2, 3)] * 2
    assert run.rows("draw") == [0, 1, 2, 3] * 2
    reasons = [None, "duplicate", None, "duplicate", None, "empty", "empty", None]
    assert run.rows("drop_reason") == reasons
    ids = run.rows("instruction_id")
    assert len(set(ids)) == 8, "dropped twins have ids of their own, and so has another post's same question"


def test_each_extra_drop_has_a_switch() -> None:
    """Cut off, a refusal, one that leans on its text, a twin: each is kept when its reason is not listed."""
    said = ["I'm sorry, but I can't help with that.", "What does the text say?", "How do I", "How?", "how?"]
    reasons = ["refusal", "refers_to_context", "cut_off", None, "duplicate"]
    every = InstructionsConfig(per_post=5).drop
    assert set(every) == {reason for reason in reasons if reason}
    for off in (None, *every, "all"):
        drop = () if off == "all" else tuple(reason for reason in every if reason != off)
        run = drive(
            replace(STAGE, config=InstructionsConfig(per_post=5, drop=drop)),
            {"post-a": said},
            finish=lambda text: "max_tokens" if text == "How do I" else "stop",
            ugc=posts("post-a"),
            quality=quality("post-a"),
        )
        assert run.rows("drop_reason") == [reason if reason in drop else None for reason in reasons], off
        assert len(set(run.rows("instruction_id"))) == 5
    with pytest.raises(ValidationError, match="duplicate"):
        InstructionsConfig(drop=("too_long",))  # type: ignore[arg-type]


def test_an_instruction_keeps_its_lines() -> None:
    code = "Why does this fail?\n\n```\nif x:\n    y()\n```"
    run = make(STAGE, {"post-a": f"{code}  \n"}, "post-a")
    assert run.rows("instruction", "keep") == [(code, True)]


def test_a_refused_post_has_a_row_for_every_draw() -> None:
    stage = replace(STAGE, config=InstructionsConfig(per_post=3))
    run = make(stage, {"post-a": None}, "post-a")
    assert run.rows("draw", "instruction", "drop_reason") == [(i, None, "prompt_too_long") for i in range(3)]
    assert len(set(run.rows("instruction_id"))) == 3


def test_a_draw_that_never_came_leaves_the_others_their_places() -> None:
    stage = replace(STAGE, config=InstructionsConfig(per_post=3))
    run = make(stage, lambda request, draw: refuse(request, "no_content") if draw == 1 else f"How {draw}?", "post-a")
    rows = [(0, "How 0?", None), (1, None, "no_content"), (2, "How 2?", None)]
    assert run.rows("draw", "instruction", "drop_reason") == rows


def test_ids_depend_on_post_and_text_alone() -> None:
    alone = make(STAGE, {"post-a": "How?"}, "post-a").rows("instruction_id")
    among = make(STAGE, {"post-b": "Why?", "post-a": "How?"}, "post-b", "post-a").rows("instruction_id")
    other = make(replace(STAGE, model="policy@2"), {"post-a": "How?"}, "post-a").rows("instruction_id")
    assert among[1] == alone[0] == other[0]
    assert among[0] != alone[0]


def test_the_example_is_picked_by_the_post_and_all_are_used() -> None:
    texts = [f"post-{i:03}" for i in range(100)]
    config = InstructionsConfig(examples=("EX-ONE", "EX-TWO", "EX-THREE"))
    stage = replace(STAGE, config=config)

    def shown(order: list[str]) -> dict[str, str]:
        seen = {}
        for request in make(stage, lambda request, draw: "How?", *order).requests:
            text = request.messages[-1].content
            (post,) = (t for t in order if t in text)
            (seen[post],) = (e for e in config.examples if e in text)
        return seen

    forward = shown(texts)
    assert forward == shown(texts[::-1])
    assert set(forward.values()) == set(config.examples)


def test_no_examples_is_refused() -> None:
    with pytest.raises(ValidationError):
        InstructionsConfig(examples=())


def test_any_refusal_is_the_drop_reason() -> None:
    run = make(STAGE, lambda request, draw: refuse(request, "content_filter"), "post-a")
    assert run.rows("drop_reason") == ["content_filter"]


def test_the_fingerprint_holds_what_shapes_the_table() -> None:
    def with_(**knobs: object) -> set[str]:
        return changed(STAGE, replace(STAGE, config=InstructionsConfig(**knobs)))  # type: ignore[arg-type]

    assert with_() == set()
    assert with_(prompt="short") == {"prompt"}
    assert with_(examples=("Why?",)) == {"examples"}
    assert with_(per_post=2) == {"limits"}
    assert with_(max_chars=2) == {"limits"}
    assert with_(drop=("refusal",)) == {"limits"}
    assert with_(drop=STAGE.config.drop[::-1]) == set()
    assert with_(sampling=Sampling(temperature=0.7, top_p=0.8, max_tokens=256)) == {"sampling"}
    assert changed(STAGE, replace(STAGE, model="policy@2")) == {"model"}
