"""The rule that grades: hand-worked overlaps, and what must not move a score."""

from __future__ import annotations

import random
import statistics

import pytest

from pugc_bundled.roles import phrases
from pugc_bundled.roles.grading import BEND, FULL, LONG, compare, gist, quoted, quotes, rounded

POST = "Descale the kettle with citric acid. Boil 500 ml of water, wait 20 minutes and rinse twice."
QUESTION = "How do I descale a kettle?"


def test_gist_has_stems_of_content_words_and_numbers_of_two_digits() -> None:
    assert gist("Descaling kettles, with 20 g of acid in 3 steps.") == {"descal", "kettle", "20", "acid", "steps"}


def test_the_questions_own_words_count_for_neither_side() -> None:
    found = compare("Descale your kettle with citric acid.", POST, QUESTION)
    assert found.shared == {"citric", "acid"}
    assert found.response == {"citric", "acid"}
    assert found.post == {"citric", "acid", "boil", "500", "water", "wait", "20", "minute", "rinse", "twice"}
    assert found.share == pytest.approx(2 * 2 / (2 + 10))
    assert found.score == pytest.approx(1 + 4 * (4 / 12 / FULL) ** BEND)


def test_what_a_score_is() -> None:
    assert compare(POST, POST, QUESTION).score == 5.0
    assert compare("Buy a new one in the shop.", POST, QUESTION).score == 1.0
    assert compare("", POST, QUESTION).score == 1.0
    assert compare("Descale the kettle.", POST, QUESTION).score == 1.0, "the question repeated earns nothing"


def test_of_a_long_post_no_more_is_wanted_than_an_answer_can_hold() -> None:
    words = [f"word{chr(97 + i)}{chr(97 + j)}" for i in range(10) for j in range(10)]  # stems differ: "wordab"
    post, half = " ".join(words), " ".join(words[:48])
    assert compare(half, post, "").share == 1.0


def test_padding_moves_no_score_much() -> None:
    """The lines around a response are words without content, or nearly so."""
    bare = compare("Citric acid, boil it, wait 20 minutes.", POST, QUESTION).score
    for bank in (phrases.TRAIN, phrases.TEST):
        padded = [
            compare(f"{o} Citric acid, boil it, wait 20 minutes. {f} {c}", POST, QUESTION).score
            for o, f, c in zip(bank.opening, bank.filler, bank.closing, strict=True)
        ]
        assert statistics.fmean(padded) > bare - 0.5


def flat(word: str) -> float:
    return 1.0


def test_quotes_are_phrases_of_the_text_from_wanted_words_none_twice() -> None:
    for seed in range(40):
        said = quotes(POST, gist(POST), set(), 4, random.Random(seed), flat)
        assert 1 <= len(said) <= 4
        stems: list[str] = []
        for phrase in said:
            assert phrase in POST
            assert len(phrase.split()) <= LONG
            stems += gist(phrase)
        assert len(stems) == len(set(stems))
    assert quotes(POST, set(), set(), 4, random.Random(0), flat) == []


def test_quotes_stay_within_a_clause() -> None:
    every = {p for seed in range(200) for p in quotes(POST, gist(POST), set(), 4, random.Random(seed), flat)}
    assert any("citric acid" in phrase for phrase in every)
    assert not any(". " in phrase for phrase in every)


def test_quotes_have_no_barred_word() -> None:
    barred = gist("acid")
    every = {p for seed in range(200) for p in quotes(POST, gist(POST) - barred, barred, 4, random.Random(seed), flat)}
    assert every
    assert not any(gist(phrase) & barred for phrase in every)


def test_a_list_of_quotes() -> None:
    assert quoted(["a"]) == '"a"'
    assert quoted(["a", "b"]) == '"a" and "b"'
    assert quoted(["a", "b", "c"]) == '"a", "b" and "c"'


def test_rounding_at_random_keeps_the_mean() -> None:
    rng = random.Random(5)
    drawn = [rounded(3.25, rng) for _ in range(4000)]
    assert set(drawn) == {3, 4}
    assert statistics.fmean(drawn) == pytest.approx(3.25, abs=0.03)
    assert rounded(5.0, rng) == 5
