"""Stage responses: all K draws of every relevant instruction, each under its own id."""

from dataclasses import replace

import polars as pl
import pytest
from helpers.stages import changed, drive, ident, instructions, refuse, table
from pydantic import ValidationError

from pugc_core.engines.base import Sampling
from pugc_core.measures import cut_off_share
from pugc_core.stages import STAGES
from pugc_core.stages.responses import Responses, ResponsesConfig

STAGE = Responses(ResponsesConfig(k=3), "policy@1", gates=("relevance",))
OF = {"How-a?": "post-a", "How-b?": "post-b", "How-c?": "post-c"}


def relevance(*yes: str, no: tuple[str, ...] = ()) -> pl.DataFrame:
    rows = [{"instruction_id": ident(i), "relevant": True} for i in yes]
    no_rows = [{"instruction_id": ident(i), "relevant": False, "drop_reason": "not_relevant"} for i in no]
    return table(STAGES["relevance"].table, rows + no_rows)


def test_all_k_draws_arrive_in_order() -> None:
    answers = {"How-a?": ["one two", " three ", "four"], "How-b?": ["five", "six", "seven"]}
    run = drive(STAGE, answers, instructions=instructions(OF), relevance=relevance("How-a?", "How-b?", no=("How-c?",)))
    assert run.rows("instruction_id") == [ident("How-a?")] * 3 + [ident("How-b?")] * 3
    assert run.rows("draw") == [0, 1, 2] * 2
    assert run.rows("text") == ["one two", "three", "four", "five", "six", "seven"]
    assert run.rows("n_tokens")[0] == 2
    assert run.rows("finish_reason") == ["stop"] * 6
    assert len(run.requests) == 2, "K draws are one request"
    assert [r.draws for r in run.requests] == [(0, 1, 2)] * 2


def test_ids_are_unique_also_for_equal_texts_and_stable() -> None:
    tables = (instructions(OF), relevance(*OF))
    first = drive(STAGE, lambda request, draw: "same", instructions=tables[0], relevance=tables[1])
    ids = first.rows("response_id")
    assert len(set(ids)) == 9
    again = drive(
        replace(STAGE, model="policy@2"), lambda r, d: "same", instructions=tables[0][::-1], relevance=tables[1]
    )
    assert sorted(again.rows("response_id")) == sorted(ids)
    more = drive(
        replace(STAGE, config=ResponsesConfig(k=4)), lambda r, d: "same", instructions=tables[0], relevance=tables[1]
    )
    assert set(ids) < set(more.rows("response_id"))
    other = drive(STAGE, lambda r, d: "other", instructions=tables[0], relevance=tables[1])
    assert not set(ids) & set(other.rows("response_id"))


def test_empty_and_refused() -> None:
    answers = {"How-a?": ["good", "  \n", "fine"], "How-b?": None}
    run = drive(STAGE, answers, instructions=instructions(OF), relevance=relevance("How-a?", "How-b?"))
    assert run.rows("draw", "text", "keep", "drop_reason") == [
        (0, "good", True, None),
        (1, "", False, "empty"),
        (2, "fine", True, None),
        *((i, None, False, "prompt_too_long") for i in range(3)),
    ]
    assert run.rows("n_tokens")[3:] == [None] * 3
    assert run.rows("finish_reason")[3:] == ["prompt_too_long"] * 3
    assert len(set(run.rows("response_id"))) == 6


def test_answers_that_were_cut_off() -> None:
    """Whatever an engine or server calls it; kept or dropped, they are counted."""
    said = {
        "done": "stop",
        "cut": "length",
        "cut too": "MAX_TOKENS",
        "filtered": "content_filter",
        "": "length",
        "?": "",
    }
    for knob, reason in (("drop", "cut_off"), ("keep", None)):
        run = drive(
            replace(STAGE, config=ResponsesConfig(k=6, cut_off=knob)),  # type: ignore[arg-type]
            {"How-a?": list(said)},
            finish=said.__getitem__,
            instructions=instructions(OF),
            relevance=relevance("How-a?"),
        )
        assert run.rows("finish_reason") == list(said.values())
        assert run.rows("drop_reason") == [None, reason, reason, reason, "empty", None]
        assert cut_off_share(Responses.measure(run.table)) == 4 / 6
    assert ResponsesConfig().cut_off == "drop"
    assert cut_off_share({}) is None


def test_the_former_knob_is_named_with_the_one_of_now() -> None:
    for drop, now in ((True, "drop"), (False, "keep")):
        with pytest.raises(ValidationError, match=f'drop_unfinished is now cut_off: write cut_off = "{now}"'):
            ResponsesConfig(drop_unfinished=drop)  # type: ignore[call-arg]


def test_nothing_relevant() -> None:
    run = drive(STAGE, {}, instructions=instructions(OF), relevance=relevance(no=tuple(OF)))
    assert run.requests == []
    assert run.counts == (0, 0, {})


def test_a_pair_needs_two() -> None:
    with pytest.raises(ValidationError):
        ResponsesConfig(k=1)


def test_a_draw_that_never_came_leaves_the_others_their_places() -> None:
    run = drive(
        STAGE,
        lambda request, draw: refuse(request, "no_content") if draw == 1 else f"{draw}",
        instructions=instructions(OF),
        relevance=relevance("How-a?"),
    )
    assert run.rows("draw", "text", "finish_reason", "drop_reason") == [
        (0, "0", "stop", None),
        (1, None, "no_content", "no_content"),
        (2, "2", "stop", None),
    ]


def test_any_refusal_is_the_drop_reason() -> None:
    run = drive(
        STAGE,
        lambda request, draw: refuse(request, "content_filter"),
        instructions=instructions(OF),
        relevance=relevance("How-a?"),
    )
    assert run.counts == (3, 0, {"content_filter": 3})


def test_the_fingerprint_holds_what_shapes_the_table() -> None:
    def with_(**knobs: object) -> set[str]:
        return changed(STAGE, replace(STAGE, config=ResponsesConfig(**{"k": 3, **knobs})))  # type: ignore[arg-type]

    assert with_() == set()
    assert with_(k=4) == {"limits"}
    assert with_(cut_off="keep") == {"limits"}
    assert with_(sampling=Sampling(temperature=0.8, top_p=0.95)) == {"sampling"}
    assert changed(STAGE, replace(STAGE, model="policy@2")) == {"model"}
