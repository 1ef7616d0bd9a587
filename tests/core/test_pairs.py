"""Stage pairs: the shortest of the top against the longest of the bottom, and never a text against itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from helpers.stages import Run, changed, drive, ident, instructions, table
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pugc_core.stages import STAGES
from pugc_core.stages.pairs import Pairs, PairsConfig, choose

STAGE = Pairs(PairsConfig())
Judged = tuple[str, float | None]


def judged(*of: Judged) -> list[dict[str, Any]]:
    return [{"text": text, "reward": reward, "draw": draw} for draw, (text, reward) in enumerate(of)]


@pytest.mark.parametrize(
    ("of", "chosen", "rejected"),
    [
        ([("best", 5), ("worst", 1)], 0, 1),
        ([("worst", 1), ("best", 5)], 1, 0),
        ([("mid", 3), ("best", 5), ("mid too", 2), ("worst", 1)], 1, 3),
        # Tie at the top: the shortest. Tie at the bottom: the longest.
        ([("top long", 5), ("top", 5), ("top longest", 5), ("low", 1)], 1, 3),
        ([("top", 5), ("low", 1), ("low longest", 1), ("low long", 1)], 0, 2),
        ([("top long", 5), ("top", 5), ("low", 1), ("low long", 1)], 1, 3),
        # The shortest of all is not at the top, the longest of all not at the bottom.
        ([("s", 3), ("top", 5), ("low", 1), ("the longest of them all", 3)], 1, 2),
        # Equal lengths go by draw.
        ([("top1", 5), ("top2", 5), ("low1", 1), ("low2", 1)], 0, 3),
        # All tied.
        ([("middle", 4), ("a", 4), ("the longest", 4)], 1, 2),
        ([("one", 4), ("two", 4)], 0, 1),
        # Length counts characters, not bytes or words.
        ([("éééé", 5), ("eeeee", 5), ("low", 1)], 0, 2),
    ],
)
def test_choose(of: list[Judged], chosen: int, rejected: int) -> None:
    rows = judged(*of)
    for order in (rows, rows[::-1], sorted(rows, key=lambda r: r["text"])):
        best, worst = choose(order)
        assert (best["draw"], worst["draw"]) == (chosen, rejected)


@given(st.lists(st.tuples(st.text(max_size=6), st.integers(1, 5)), min_size=2, max_size=8), st.randoms())
def test_choose_keeps_its_promises_in_any_order(of: list[tuple[str, int]], random: Any) -> None:
    rows = judged(*of)
    best, worst = choose(rows)
    assert best["draw"] != worst["draw"]
    for row in rows:
        assert worst["reward"] <= row["reward"] <= best["reward"]
        if row["reward"] == best["reward"]:
            assert len(best["text"]) <= len(row["text"])
        if row["reward"] == worst["reward"]:
            assert len(worst["text"]) >= len(row["text"])
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert choose(shuffled) == (best, worst)


ORIGIN = {
    "line": 7,
    "title": "Title",
    "thread": "12",
    "source": "forum",
    "author": "mia",
    "url": "http://x.test/7",
    "license": "CC BY-SA 4.0",
}


def build(
    of: Mapping[str, Sequence[Judged]], stage: Pairs = STAGE, reverse: bool = False, cut: Sequence[str] = ()
) -> Run:
    """One pair per instruction, from (text, reward) of its responses; no reward = was dropped before. Texts in `cut`
    were cut off."""
    texts, rewards = [], []
    for instruction, answers in of.items():
        for draw, (text, reward) in enumerate(answers):
            ids = {"response_id": ident(f"{instruction}{draw}"), "instruction_id": ident(instruction)}
            finish = "length" if text in cut else "stop"
            texts.append({**ids, "draw": draw, "text": text, "n_tokens": 10 + draw, "finish_reason": finish})
            reason = None if reward is not None else "too_few_votes"
            rewards.append({**ids, "votes": [], "n_valid": 1, "reward": reward, "drop_reason": reason})
    kept = instructions(dict.fromkeys(of, "post"), dropped={"dropped": "post"})
    post = {**ORIGIN, "ugc_id": ident("post"), "text": "the post"}
    posts = table(STAGES["ugc"].table, [post, {**post, "ugc_id": ident("other"), "text": "other"}])
    tables: list[pl.DataFrame] = [
        posts,
        kept,
        table(STAGES["responses"].table, texts),
        table(STAGES["rewards"].table, rewards),
    ]
    if reverse:
        tables = [t.reverse() for t in tables]
    return drive(stage, {}, **dict(zip(("ugc", "instructions", "responses", "rewards"), tables, strict=True)))


def test_a_pair() -> None:
    (row,) = build({"How?": [("mid", 3.0), ("worst", 1.5), ("best", 4.75)]}).table.iter_rows(named=True)
    assert row.pop("pair_id")
    assert row == {
        "instruction_id": ident("How?"),
        "ugc_id": ident("post"),
        "instruction": "How?",
        "post": "the post",
        **ORIGIN,
        "chosen_response_id": ident("How?2"),
        "rejected_response_id": ident("How?1"),
        "chosen": "best",
        "rejected": "worst",
        "chosen_reward": 4.75,
        "rejected_reward": 1.5,
        "margin": 3.25,
        "chosen_tokens": 12,
        "rejected_tokens": 11,
        "chosen_cut_off": False,
        "rejected_cut_off": False,
        "keep": True,
        "drop_reason": None,
    }


def test_reasons() -> None:
    run = build(
        {
            "good": [("a", 5.0), ("b", 1.0)],
            "tied": [("a", 4.0), ("bb", 4.0), ("ccc", 4.0)],
            "one": [("a", 4.0), ("b", None)],
            "none": [("a", None), ("b", None)],
            "same": [("a", 5.0), ("a", 1.0)],
        }
    )
    assert dict(run.rows("instruction", "drop_reason")) == {
        "good": None,
        "tied": "all_tied",
        "one": "too_few_responses",
        "none": "too_few_responses",
        "same": "same_text",
    }
    assert run.counts == (5, 1, {"all_tied": 1, "same_text": 1, "too_few_responses": 2})
    assert run.rows("margin") == [4.0, 0.0, None, None, 4.0]
    assert len(set(run.rows("pair_id"))) == 5


def test_pairs_say_which_side_was_cut_off() -> None:
    run = build(
        {"left": [("cut", 5.0), ("b", 1.0)], "right": [("a", 5.0), ("cut", 1.0)], "none": [("a", 5.0), ("b", 1.0)]}
        | {"lone": [("cut", 5.0), ("b", None)]},
        cut=["cut"],
    )
    assert run.rows("instruction", "chosen_cut_off", "rejected_cut_off") == [
        ("left", True, False),
        ("right", False, True),
        ("none", False, False),
        ("lone", None, None),
    ]
    assert Pairs.measure(run.table)["cut_off"] == 2


def test_an_instruction_that_was_never_answered_is_no_row() -> None:
    # It was dropped as irrelevant, and counted there.
    assert build({}).counts == (0, 0, {})


def test_a_kept_pair_never_has_one_text_twice() -> None:
    # The shortest at the top has the text of the longest at the bottom.
    run = build({"How?": [("same", 5.0), ("same text", 5.0), ("same", 1.0), ("s", 1.0)]})
    assert run.rows("drop_reason") == ["same_text"]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "cc"]), st.sampled_from([1.0, 2.0, None])), min_size=1, max_size=5),
    st.sampled_from(["drop", "length"]),
)
def test_never_chosen_equal_rejected(answers: list[Judged], ties: str) -> None:
    run = build({"How?": answers}, Pairs(PairsConfig(all_tied=ties)))  # type: ignore[arg-type]
    for chosen, rejected, best, worst in (
        run.table.filter("keep").select("chosen", "rejected", "chosen_reward", "rejected_reward").iter_rows()
    ):
        assert chosen != rejected
        assert best > worst or ties == "length"


def test_all_tied_by_length_when_asked() -> None:
    stage = Pairs(PairsConfig(all_tied="length"))
    run = build({"How?": [("middle", 4.0), ("s", 4.0), ("the longest", 4.0)], "same": [("a", 4.0), ("a", 4.0)]}, stage)
    assert run.rows("chosen", "rejected", "margin", "drop_reason") == [
        ("s", "the longest", 0.0, None),
        ("a", "a", 0.0, "same_text"),
    ]


@pytest.mark.parametrize(
    ("best", "worst", "least", "kept"),
    [
        (3.0, 2.0, 1.0, True),
        (3.0, 2.125, 1.0, False),
        (5.0, 1.0, 4.0, True),
        (3.125, 3.0, 0.0, True),
        # Means of five votes are not exact in binary: 1.2 - 1.0 is a little below 0.2.
        (1.2, 1.0, 0.2, True),
        (4.6, 4.2, 0.4, True),
        (1.2, 1.0, 0.21, False),
    ],
)
def test_the_least_margin_is_inclusive(best: float, worst: float, least: float, kept: bool) -> None:
    run = build({"How?": [("a", best), ("b", worst)]}, Pairs(PairsConfig(min_margin=least)))
    assert run.rows("drop_reason") == [None if kept else "small_margin"]


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValidationError):
        PairsConfig(min_margin=-1)


def test_ids_and_choice_do_not_depend_on_row_order() -> None:
    of: dict[str, list[Judged]] = {"How?": [("a", 5.0), ("b", 5.0), ("c", 1.0), ("d", 1.0)], "Why?": [("a", 1.0)]}
    first, second = build(of), build(of, reverse=True)
    assert sorted(first.rows()) == sorted(second.rows()), "only the order of rows differs"


def test_the_pair_id_follows_the_two_responses() -> None:
    first = build({"How?": [("a", 5.0), ("b", 1.0), ("c", 2.0)]}).rows("pair_id")
    assert build({"How?": [("a", 4.0), ("b", 1.5), ("c", 2.0)]}).rows("pair_id") == first
    assert build({"How?": [("a", 1.0), ("b", 5.0), ("c", 2.0)]}).rows("pair_id") != first


def test_the_fingerprint_holds_what_shapes_the_table() -> None:
    assert changed(STAGE, Pairs(PairsConfig())) == set()
    assert changed(STAGE, replace(STAGE, config=PairsConfig(min_margin=0.5))) == {"margin"}
    assert changed(STAGE, replace(STAGE, config=PairsConfig(all_tied="length"))) == {"ties"}
