"""What the adapter learns from is what the pipeline asks, and answers that the pipeline's parsers take."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest

from pugc_bundled.roles import corpus, phrases, sample
from pugc_bundled.roles.corpus import Post
from pugc_bundled.roles.grading import compare, gist
from pugc_bundled.roles.material import DAMAGE, Sampled, changed, contradicted
from pugc_bundled.roles.tasks import DECIDED, OWN, WORDING, Branch, Reading, Tasks
from pugc_bundled.tiny.phrases import WORTH
from pugc_bundled.tiny.text import Salience, sentences
from pugc_core.prompts import instructions, quality, relevance, rewards


def tasks_of(posts: list[Post], data: Path, seed: int = 3, own: float = 0.0) -> Tasks:
    train = corpus.of("train", posts)
    said = [
        {"kind": "answer", "key": p.key, "text": p.question, "said": sentences(p.text)[0], "cut_off": False}
        for p in train
    ]
    judged = corpus.judgments(data)
    return Tasks(train, Salience(p.text for p in train), random.Random(seed), Sampled(said), judged, own=own)


@pytest.fixture(scope="module")
def readings(posts: list[Post], data: Path) -> list[Reading]:
    return list(itertools.islice(tasks_of(posts, data).readings(), 250))


def of(readings: list[Reading], role: str) -> list[Branch]:
    return [branch for reading in readings for branch in reading.branches if branch.role == role]


def test_every_answer_is_one_that_the_pipeline_takes(readings: list[Reading]) -> None:
    for vote in of(readings, "rewards"):
        assert vote.target is not None
        score = rewards.parse(vote.answer)
        assert score is not None
        assert abs(score - vote.target) < 1
    for rating in of(readings, "quality"):
        assert quality.parse(rating.answer) == rating.target
    for verdict in of(readings, "relevance"):
        assert relevance.parse(verdict.answer) == bool(verdict.target)
    for question in of(readings, "instructions"):
        assert instructions.parse(question.answer) == question.answer
        assert not instructions.refers_to_context(question.answer)


def test_prompts_are_the_pipelines_own(readings: list[Reading]) -> None:
    for role, module in (
        ("rewards", rewards),
        ("quality", quality),
        ("relevance", relevance),
        ("instructions", instructions),
    ):
        before = module.WORDINGS[WORDING].user.partition("{ugc}")[0]
        assert of(readings, role)
        assert all(branch.messages[0].content.startswith(before) for branch in of(readings, role))


def test_the_prompts_of_a_reading_begin_alike(readings: list[Reading]) -> None:
    several = [r for r in readings if len(r.branches) > 1]
    assert several
    for reading in several:
        shown = f"###Reference Document:\n{reading.branches[0].messages[0].content.split(chr(10), 1)[1]}"[:60]
        assert all(branch.messages[0].content.startswith(shown) for branch in reading.branches)


def test_every_way_to_respond_comes_up_and_both_truths(readings: list[Reading]) -> None:
    kinds = {branch.kind for branch in of(readings, "rewards")}
    assert {"base", "kept", "swapped", "foreign", "padded", "judged", "base_mixed"} <= kinds
    assert {branch.kind for branch in of(readings, "relevance")} == {"own", "near"}
    assert {branch.kind for branch in of(readings, "quality")} == {*DAMAGE, "sound"}


def test_feedback_says_of_quoted_words_what_is_so(readings: list[Reading]) -> None:
    for reading in readings:
        for vote in (b for b in reading.branches if b.role == "rewards" and b.kind != "padded"):
            prompt = vote.messages[0].content
            post = prompt.partition("###Reference Document:\n")[2].partition("\n###Task Description")[0]
            response = prompt.partition("###Response to evaluate:\n")[2].partition("\n###Score")[0]
            question = prompt.partition("###The instruction to evaluate:\n")[2].partition("\n###Response")[0]
            for phrase, verdict in re.findall(r'"([^"]+)" is (covered|missing)', vote.answer):
                assert phrase in post
                stems = gist(phrase) - gist(question)
                assert stems
                there = stems & gist(response)
                assert there == (stems if verdict == "covered" else set()), phrase


def test_whatever_can_stand_at_one_place_weighs_the_same(readings: list[Reading]) -> None:
    """Else the heavier alternative would come too often."""
    heavy: dict[str, set[str]] = {}
    for branch in (b for r in readings for b in r.branches):
        for said, weight in branch.parts:
            if weight == DECIDED:
                heavy.setdefault(branch.role, set()).add(said)
    assert heavy["quality"] == set(WORTH.values())
    assert heavy["rewards"] == {" covered", " missing", "1", "2", "3", "4", "5"}


def test_padding_earns_what_the_response_earns_without(posts: list[Post], data: Path) -> None:
    tasks = tasks_of(posts, data)
    post = next(p for p in tasks.posts if p.question)
    bare = sentences(post.text)[0]
    padded = tasks.vote(post, post.question, tasks.material.padded(bare), "padded", graded=bare)
    assert padded.target == compare(bare, post.text, post.question).score


def test_the_same_seed_makes_the_same_readings(posts: list[Post], data: Path) -> None:
    first, again = (list(itertools.islice(tasks_of(posts, data).readings(), 20)) for _ in range(2))
    assert first == again
    other = list(itertools.islice(tasks_of(posts, data, seed=4).readings(), 20))
    assert first != other


def test_a_second_course_is_votes_on_what_the_base_says(posts: list[Post], data: Path) -> None:
    made = list(itertools.islice(tasks_of(posts, data, own=1.0).readings(), 40))
    assert {branch.role for reading in made for branch in reading.branches} == {"rewards"}
    assert {branch.kind for reading in made for branch in reading.branches} == set(OWN)
    mixed = list(itertools.islice(tasks_of(posts, data, own=0.5).readings(), 200))
    alone = [reading for reading in mixed if all(branch.kind in OWN for branch in reading.branches)]
    assert 70 < len(alone) < 130
    with pytest.raises(ValueError, match="run `sample`"):
        Tasks(posts, Salience(p.text for p in posts), random.Random(1), own=0.5)


def test_more_answers_are_of_other_questions(posts: list[Post], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SITES", 3)
    monkeypatch.setattr(sample, "QUESTIONS", 5)
    monkeypatch.setattr(sample, "TEXTS", 2)
    first = {row["key"] for row in sample.asked(posts) if row["kind"] == "answer"}
    more = sample.asked(posts, 4)
    assert {row["kind"] for row in more} == {"answer"}
    assert 0 < len(more) <= 4
    assert not first & {row["key"] for row in more}


def test_a_near_question_is_another_posts(readings: list[Reading]) -> None:
    for reading in readings:
        own = reading.post.question
        for verdict in (b for b in reading.branches if b.kind == "near"):
            assert verdict.messages[0].content.partition("###Question\n")[2] != own


def test_the_banks_for_learning_and_measuring_share_no_line() -> None:
    for ours, theirs in zip(phrases.TRAIN, phrases.TEST, strict=True):
        assert not set(ours) & set(theirs)


def test_contradictions_change_one_place_and_are_found_again() -> None:
    post = "Bake it for 20 minutes. The oven is hot. Nothing else."
    for seed in range(20):
        text = contradicted(post, random.Random(seed))
        assert text not in ("", post)
        found = changed(text, post)
        assert found is not None
        said, has = found
        assert said in text
        assert has in post
        assert said != has
    assert contradicted("Nothing here.", random.Random(0)) == ""


def test_answers_that_were_cut_off_lose_their_last_sentence() -> None:
    row = {"kind": "answer", "key": "k", "text": "q", "said": "One whole sentence here. And half a", "cut_off": True}
    assert Sampled([row]).answers["k"] == ["One whole sentence here."]
