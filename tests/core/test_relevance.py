"""Stage relevance: True keeps, False drops, anything else is no verdict."""

from dataclasses import replace

from helpers.stages import changed, drive, ident, instructions, posts, refuse

from pugc_core.engines.base import Sampling
from pugc_core.stages.relevance import Relevance, RelevanceConfig

STAGE = Relevance(RelevanceConfig(), "policy@1")
OF = {"How-a?": "post-a", "How-b?": "post-b", "How-c?": "post-a", "How-d?": "post-b"}


def test_verdicts_and_reasons() -> None:
    run = drive(
        STAGE,
        {"How-a?": "True", "How-b?": "False", "How-c?": "perhaps", "How-d?": None},
        ugc=posts("post-a", "post-b"),
        instructions=instructions(OF, dropped={"How-x?": "post-a"}),
    )
    assert run.rows("instruction_id", "relevant", "keep", "drop_reason") == [
        (ident("How-a?"), True, True, None),
        (ident("How-b?"), False, False, "not_relevant"),
        (ident("How-c?"), None, False, "unparsable"),
        (ident("How-d?"), None, False, "prompt_too_long"),
    ]
    assert run.counts == (4, 1, {"not_relevant": 1, "prompt_too_long": 1, "unparsable": 1})


def test_the_answer_is_restricted_greedy_and_not_cut_at_one_token() -> None:
    run = drive(STAGE, lambda request, draw: "True", ugc=posts("post-a", "post-b"), instructions=instructions(OF))
    for request in run.requests:
        assert request.sampling.choices == ("True", "False")
        assert request.sampling.temperature == 0
        assert request.sampling.max_tokens >= len("False")
        assert request.draws == (0,)


def test_each_question_is_asked_with_its_own_post() -> None:
    run = drive(STAGE, lambda request, draw: "True", ugc=posts("post-a", "post-b"), instructions=instructions(OF))
    for request, (question, post) in zip(run.requests, OF.items(), strict=True):
        text = request.messages[-1].content
        assert question in text
        assert post in text
        assert {"post-a": "post-b", "post-b": "post-a"}[post] not in text


def test_nothing_to_ask() -> None:
    run = drive(STAGE, {}, ugc=posts("post-a"), instructions=instructions({}, dropped={"How-x?": "post-a"}))
    assert run.requests == []
    assert run.counts == (0, 0, {})


def test_any_refusal_is_the_drop_reason() -> None:
    run = drive(
        STAGE,
        lambda request, draw: refuse(request, "content_filter"),
        ugc=posts("post-a"),
        instructions=instructions({"How-a?": "post-a"}),
    )
    assert run.rows("drop_reason") == ["content_filter"]


def test_the_fingerprint_holds_what_shapes_the_table() -> None:
    assert changed(STAGE, replace(STAGE, config=RelevanceConfig())) == set()
    assert changed(STAGE, replace(STAGE, config=RelevanceConfig(prompt="short"))) == {"prompt"}
    assert changed(STAGE, replace(STAGE, model="policy@2")) == {"model"}
    free = Sampling(temperature=0.0, max_tokens=16)
    assert changed(STAGE, replace(STAGE, config=RelevanceConfig(sampling=free))) == {"sampling"}
