"""Who is on which side, and what a post is."""

from __future__ import annotations

from pathlib import Path

from pugc_bundled.roles import corpus
from pugc_bundled.roles.corpus import Post, begun, side_of, tidy


def test_unseen_sources_are_on_neither_other_side(posts: list[Post], data: Path) -> None:
    assert {p.source for p in corpus.of("unseen", posts)} <= set(corpus.UNSEEN)
    assert not {p.source for side in ("train", "test") for p in corpus.of(side, posts)} & set(corpus.UNSEEN)
    assert corpus.of("unseen", posts)
    assert all(side_of(p.source, "any") == "unseen" for p in corpus.preferences(data))


def test_a_thread_is_on_one_side(posts: list[Post]) -> None:
    sides: dict[tuple[str, str], set[str]] = {}
    for post in posts:
        sides.setdefault((post.source, post.key), set()).add(post.side)
    assert all(len(found) == 1 for found in sides.values())
    assert side_of("a", "thread") == side_of("b", "thread")


def test_about_one_key_in_twenty_is_for_testing() -> None:
    test = sum(side_of("s", str(i)) == "test" for i in range(4000))
    assert 150 < test < 250


def test_posts_that_ask_and_short_ones_are_left_out(posts: list[Post]) -> None:
    assert "question" not in {p.kind for p in posts}
    assert all(len(p.text.split()) >= corpus.SHORTEST for p in posts)


def test_an_answers_title_is_its_question_and_not_shown(posts: list[Post]) -> None:
    for post in posts:
        if post.kind == "answer" and post.source.startswith("stackexchange"):
            assert post.question.endswith("?")
            assert post.question not in post.text
        if post.kind == "recipe":
            assert post.text.startswith(f"{post.title}\n\n")


def test_votes_are_ranks_within_the_source(posts: list[Post]) -> None:
    ranked = [p for p in posts if p.votes is not None]
    assert ranked
    assert all(0 < p.votes < 1 for p in ranked if p.votes is not None)
    assert all(p.kind == "answer" for p in ranked)


def test_judgments_and_preferences_have_references_and_no_ties(data: Path) -> None:
    assert [p.label for p in corpus.preferences(data)] == ["A"]
    assert len(corpus.judgments(data)) == 5


def test_a_beginning_ends_with_a_sentence() -> None:
    text = "One two three. Four five six! Seven eight? Nine."
    assert begun(text, 1) == "One two three."
    assert begun(text, 4) == "One two three. Four five six!"
    assert begun(text, 99) == text


def test_tidy() -> None:
    assert tidy("a\u00a0 b\r\n\n\n\nc  d \n") == "a b\n\nc d"
