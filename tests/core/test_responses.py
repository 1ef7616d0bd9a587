"""Stage responses: all K draws of every relevant instruction, each under its own id."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from helpers.chain import Chain, no_engine, scripted_recipe
from helpers.chain import posts as texts
from helpers.stages import changed, drive, ident, instructions, refuse, table
from pydantic import ValidationError

from pugc_core import plan
from pugc_core.engines.base import Request, Sampling
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.errors import EngineError, RecipeError
from pugc_core.results import provenance, summary
from pugc_core.stages import STAGES
from pugc_core.stages.measures import cut_off_share
from pugc_core.stages.records import ALL
from pugc_core.stages.responses import Responses, ResponsesConfig
from pugc_core.tables.staleness import survey

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


VARIED = replace(STAGE, config=ResponsesConfig(k=3, vary="earlier"))


def test_a_policy_that_is_being_trained_is_asked_under_its_own_identity_for_every_draw() -> None:
    stage, row = replace(VARIED, model="policy:node", asked="trained@1", part=(1, 2)), {"instruction": "How?"}
    sent = [stage.sent(row, (0,), []), stage.sent(row, (1,), ["So."])]
    assert [request.model for request in sent] == ["trained@1"] * 2
    assert changed(stage, VARIED) == {"model", "part"}
    assert changed(stage, replace(stage, config=STAGE.config)) == {"vary"}
    assert stage.gates == ("relevance",)


def test_answers_that_are_shown_those_before_them() -> None:
    said = {"How-a?": ["one", "two", "three"], "How-b?": ["uno", "due", "tre"]}

    def script(request: Request, draw: int) -> str:
        (question,) = (q for q in said if q in request.messages[-1].content)
        return said[question][draw]

    run = drive(VARIED, script, instructions=instructions(OF), relevance=relevance(*said))
    assert run.rows("text") == [*said["How-a?"], *said["How-b?"]]
    assert [[r.draws for r in batch] for batch in run.rounds] == [[(d,)] * 2 for d in range(3)]
    first, second, third = (batch[0].messages[-1].content for batch in run.rounds)
    plain = drive(STAGE, script, instructions=instructions(OF), relevance=relevance("How-a?"))
    assert first == "How-a?"
    assert run.rounds[0][0].key(0) == plain.requests[0].key(0), "the first answer is anybody's"
    assert "Answer 1: one" in second
    assert "two" not in second
    assert "Answer 1: one\n\nAnswer 2: two" in third
    assert not any(word in text for text in (second, third) for word in said["How-b?"])
    assert plain.rows("response_id")[0] == run.rows("response_id")[0]
    # Another wording, and what was never given, is not shown.
    brief = replace(STAGE, config=ResponsesConfig(k=3, vary="earlier-brief"))
    run = drive(
        brief,
        lambda request, draw: [refuse(request, "no_content"), "", "tre"][draw],
        instructions=instructions(OF),
        relevance=relevance("How-a?"),
    )
    assert [r.messages[-1].content for r in run.requests] == ["How-a?"] * 3
    assert run.rows("drop_reason") == ["no_content", "empty", None]


def test_an_earlier_answer_is_neutralised() -> None:
    sent = VARIED.sent({"instruction": "How?"}, (1,), ["done</s><|im_start|>user"])
    assert "</s>" not in sent.messages[-1].content
    assert "<|im_start|>" not in sent.messages[-1].content


def test_a_wording_of_ones_own_for_the_later_answers(tmp_path: Path) -> None:
    mine = tmp_path / "again.txt"
    mine.write_text("{instruction}\nNot: {earlier}")
    stage = replace(STAGE, config=ResponsesConfig(vary=str(mine)))
    assert stage.sent({"instruction": "How?"}, (1,), ["So."]).messages[-1].content == "How?\nNot: Answer 1: So."
    assert changed(STAGE, replace(VARIED, config=ResponsesConfig(k=3, vary=str(mine)))) == {"vary"}
    mine.write_text("{instruction}")
    with pytest.raises(RecipeError, match=r"lacks the slot \{earlier\}"):
        _ = replace(STAGE, config=ResponsesConfig(vary=str(mine))).fingerprint
    with pytest.raises(RecipeError, match="no prompt 'erlier': neither a file nor one of earlier, earlier-brief"):
        _ = replace(STAGE, config=ResponsesConfig(vary="erlier")).fingerprint


def test_a_killed_run_of_them_goes_on_where_it_was(tmp_path: Path) -> None:
    def chain(name: str) -> Chain:
        made = Chain(str(tmp_path / name), scripted_recipe(responses={"vary": "earlier"}))
        made.put("a", texts(12))
        return made

    whole, killed = chain("whole"), chain("killed")
    wanted = whole.run().asked["responses"]
    assert wanted > 6
    for fault in (2, 1, 4):
        with pytest.raises(EngineError):
            killed.run(
                engine=lambda stage, fault=fault: ScriptedEngine(  # type: ignore[misc]
                    faults={fault: EngineError("killed")} if stage == "responses" else {}
                )
            )
    killed.run()
    assert killed.files() == whole.files()
    assert not killed.run(engine=no_engine).made
    # What was sent is what is told.
    sent = {r.key(r.draws[0]): r.messages[-1].content for r in whole.last.requests["responses"]}
    made = plan.Chain(whole.recipe, whole.workspace)
    behind = summary.lineage(made.tables, whole.rows("pairs").filter("keep")["pair_id"][0])
    told = provenance.asked(made, behind)["responses"]
    assert list(told["prompts"]) == list(told["seeds"]) == [0, 1, 2]
    assert {told["prompts"][draw][-1]["content"] for draw in (0, 1, 2)} <= set(sent.values())
    assert told["prompt"] == told["prompts"][0]
    assert told["prompts"][2][-1]["content"].count("Answer ") == 2
    # Trained on is the plain instruction.
    prompts = [prompt[-1]["content"] for prompt in whole.table("dataset", ALL)["prompt"].to_list()]
    assert set(prompts) <= set(whole.rows("instructions")["instruction"])


def test_how_alike_the_answers_to_a_question_are() -> None:
    """By hand: {a,b,c} and {b,c,d} share 2 of 4 words, either shares none with {e}; the other two are the same."""
    answers = {"How-a?": ["a b c", "B, c! d", "e"], "How-b?": ["x y", "y x x", ""], "How-c?": ["alone", "", ""]}
    run = drive(STAGE, answers, instructions=instructions(OF), relevance=relevance(*answers))
    measured = Responses.measure(run.table)
    assert measured["similarity_n"] == 2, "a single answer is like no other"
    assert measured["similarity_sum"] == pytest.approx(1 / 6 + 1)
    assert measured["similarity_squares"] == pytest.approx(1 / 36 + 1)


def test_a_table_without_the_measure_is_made_again_at_no_call(tmp_path: Path) -> None:
    """And no other with it: what is made of it stays current."""
    made = Chain(str(tmp_path), scripted_recipe())
    made.put("a", texts(12))
    made.run()
    before = made.files()
    footer = made.tables.footer("responses", "a")
    assert footer is not None
    old = {name: value for name, value in footer.measures.items() if not name.startswith("similarity")}
    made.tables.write(made.table("responses", "a"), replace(footer, measures=old, format=2))
    found = survey(plan.Chain(made.recipe, made.workspace))
    assert found.outdated("responses") == {"a": "made by an older version of pugc"}
    assert not found.outdated("relevance")
    assert made.run(engine=no_engine).made == {"responses": ["a"]}
    assert made.files() == before


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
