"""Near-duplicates: similarities worked by hand, and which texts are one cluster."""

from __future__ import annotations

import random

import pytest

from pugc_core.stages import near

ABC = "a b c d e f g h i j"
"""Ten words, eight runs of three."""


def test_similarity_is_counted_not_estimated() -> None:
    cases: list[tuple[str, str, tuple[int, ...], float]] = [
        ("a b c", "a b c", (3,), 1.0),
        ("A, b: (c)!", "a b c", (3,), 1.0),
        # abc bcd cde against abc bcd cdx: two of four.
        ("a b c d e", "a b c d x", (3,), 2 / 4),
        # The last of ten words differs: seven of nine.
        (ABC, ABC[:-1] + "x", (3,), 7 / 9),
        # One in the middle breaks three of eight: five of eleven.
        (ABC, ABC.replace("e", "x"), (3,), 5 / 11),
        # One of ten words of a question: nine of eleven words, seven of eleven pairs.
        (ABC, ABC.replace("e", "x"), (1, 2), 16 / 22),
        ("a b", "a b", (3,), 1.0),
        ("a b", "a b c", (3,), 0.0),
        ("", "", (3,), 0.0),
        ("?!", "...", (1, 2), 0.0),
        # Scripts that do without spaces: by character. 2 of 4 runs of three.
        ("雨が降る日", "雨が降る夜", (3,), 2 / 4),
    ]
    for one, other, sizes, expected in cases:
        found = near.similarity(near.shingles(one, sizes), near.shingles(other, sizes))
        assert found == pytest.approx(expected), (one, other)


def test_clusters_are_named_by_their_first_text() -> None:
    other = "quite another text with no words in common at all"
    texts = [ABC, other, ABC + " x", "", ABC, "?", other.upper()]
    # With x: eight of nine runs.
    assert near.clusters(texts, 0.8, near.POST) == [0, 1, 0, 3, 0, 5, 1]
    assert near.clusters(texts, 0.9, near.POST) == [0, 1, 2, 3, 0, 5, 1]
    assert near.clusters([], 0.8, near.POST) == []


def test_the_threshold_is_inclusive() -> None:
    # Eight runs of which seven stay and one comes: 7 / 9.
    for threshold, expected in ((7 / 9, [0, 0]), (7 / 9 + 1e-9, [0, 1])):
        assert near.clusters([ABC, ABC[:-1] + "x"], threshold, near.POST) == expected


def test_what_a_text_in_between_holds_together_is_one_cluster() -> None:
    a, b, c = ABC, ABC + " k", ABC + " k l"
    # 8/9 and 9/10 side by side, 8/10 end to end.
    assert near.clusters([a, c], 0.85, near.POST) == [0, 1]
    assert near.clusters([a, b, c], 0.85, near.POST) == [0, 0, 0]
    assert near.clusters([a, c, b], 0.85, near.POST) == [0, 0, 0]


def test_no_near_duplicate_is_missed_among_many() -> None:
    """MinHash may miss a pair at 0.7 once in 200 times; what is nearer is found."""
    rng = random.Random(3)
    texts, expected = [], []
    for _ in range(400):
        words = [f"w{rng.randrange(30_000)}" for _ in range(60)]
        expected += [len(texts)] * 2
        # One word in the middle changed: 55 of 61 runs.
        texts += [" ".join(words), " ".join([*words[:30], "changed", *words[31:]])]
    assert near.clusters(texts, 0.8, near.POST) == expected


def test_copies_are_not_compared_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = 0
    real = near.similarity

    def count(a: set[str], b: set[str]) -> float:
        nonlocal counted
        counted += 1
        return real(a, b)

    monkeypatch.setattr(near, "similarity", count)
    copies = [f"{' '.join(f'w{i}' for i in range(50))} number {i}" for i in range(500)]
    assert set(near.clusters(copies, 0.8, near.POST)) == {0}
    assert counted == 499


def test_sets_that_are_joined() -> None:
    sets = near.Union()
    for pair in (("a", "b"), ("c", "d"), ("e", "e"), ("d", "b")):
        sets.join(*pair)
    assert [sets.first(x) for x in "abcdef"] == ["a", "a", "a", "a", "e", "f"]


def test_sets_are_what_any_order_of_joining_gives() -> None:
    rng = random.Random(1)
    for _ in range(200):
        links = [(rng.randrange(30), rng.randrange(30)) for _ in range(25)]
        sets, plain = near.Union(), [{i} for i in range(30)]
        for thing in range(30):
            sets.first(thing)
        for a, b in links:
            sets.join(a, b)
            both = next(s for s in plain if a in s) | next(s for s in plain if b in s)
            plain = [s for s in plain if not s & both] + [both]
        assert [sets.first(i) for i in range(30)] == [min(next(s for s in plain if i in s)) for i in range(30)]
