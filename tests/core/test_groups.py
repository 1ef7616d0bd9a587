"""Which pairs stand on one side of the split."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.stages import ident, table

from pugc_core.stages import STAGES
from pugc_core.stages.groups import Grouped, grouped, point
from pugc_core.stages.ugc import Fields, Ugc, UgcConfig

OPEN_POSTS = Path(__file__).parents[3] / "shared" / "data" / "ugc_open.parquet"
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdglmnrst"]


def text(name: str, words: int = 60) -> str:
    """Some words that no other name gives in that order."""
    rng = random.Random(name)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def pairs(*posts: dict[str, Any]) -> pl.DataFrame:
    """A pair per post: {"id": ..., and what matters of it}; the rest differs from post to post."""
    rows = []
    for line, post in enumerate(posts, 1):
        name = post["id"]
        row = {"ugc_id": ident(name), "line": line, "post": text(name), "instruction": text(f"asks {name}", 9)}
        row |= {k: v for k, v in post.items() if k not in ("id", "shard")}
        rows.append({**row, "pair_id": ident(f"{name} {line}")})
    shards = pl.Series("shard", [p.get("shard", "a") for p in posts])
    return table(STAGES["pairs"].table, rows).with_columns(shards)


def together(found: Grouped, *names: str) -> bool:
    return len({found.group[ident(name)] for name in names}) == 1


def test_what_holds_posts_together() -> None:
    a, b = {"id": "a"}, {"id": "b"}
    cases: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
        ("nothing", {}, {}, False),
        ("thread", {"thread": "7", "source": "x"}, {"thread": "7", "source": "x"}, True),
        ("thread, no source", {"thread": "7"}, {"thread": "7"}, True),
        ("thread of another site", {"thread": "7", "source": "x"}, {"thread": "7", "source": "y"}, False),
        ("title", {"title": "Flat tyre"}, {"title": "Flat tyre"}, True),
        ("title, as it is written", {"title": "Flat tyre?"}, {"title": "  RE: Fwd: flat  TYRE"}, True),
        ("title, full width", {"title": "Flat tyre"}, {"title": "Ｆlat tyre"}, True),
        ("title that has re: within", {"title": "Software: a story"}, {"title": "a story"}, False),
        ("no title", {"title": ""}, {"title": ""}, False),
        ("title of signs", {"title": "???"}, {"title": "!!!"}, False),
        (
            "title in other threads",
            {"title": "Flat tyre", "thread": "7"},
            {"title": "Flat tyre", "thread": "8"},
            True,
        ),
        ("post", {"post": text("one")}, {"post": text("one") + " extra"}, True),
        ("question", {"instruction": "How do I keep cut basil fresh for a whole week?"},
         {"instruction": "how do I keep cut basil fresh for a long week"}, True),
        ("other question", {"instruction": "How do I keep basil fresh?"},
         {"instruction": "How do I sharpen a bread knife?"}, False),
    ]  # fmt: skip
    for what, one, other, expected in cases:
        found = grouped(pairs(a | one, b | other), 0.8)
        assert together(found, "a", "b") is expected, what


def test_groups_are_joined_by_whatever_links_them() -> None:
    """a and b share a thread, b and c a title, c and d a question: all stand together, e apart."""
    question = "How do I keep cut basil fresh for a whole week?"
    found = grouped(
        pairs(
            {"id": "a", "thread": "1"},
            {"id": "b", "thread": "1", "title": "Basil"},
            {"id": "c", "thread": "2", "title": "basil!"},
            {"id": "c", "thread": "2", "title": "basil!", "instruction": question},
            {"id": "d", "instruction": question},
            {"id": "e"},
        ),
        0.8,
    )
    assert together(found, "a", "b", "c", "d")
    assert not together(found, "a", "e")


def test_of_near_duplicates_the_first_by_shard_and_line_stands_for_all() -> None:
    same = text("same")
    found = grouped(
        pairs(
            {"id": "late", "shard": "b", "line": 1, "post": same},
            {"id": "first", "shard": "a", "line": 5, "post": same + " x"},
            {"id": "second", "shard": "a", "line": 6, "post": same + " y"},
        ),
        0.8,
    )
    assert found.copy_of == {ident("late"): ident("first"), ident("second"): ident("first")}


def test_a_group_is_held_out_by_its_thread_else_its_title_else_its_post() -> None:
    found = grouped(
        pairs(
            {"id": "a", "thread": "7", "source": "x", "title": "Tyres"},
            {"id": "b", "title": "The  Chain"},
            {"id": "c"},
        ),
        0.8,
    )
    assert found.point[ident("a")] == point("thread\x1fx\x1f7")
    assert found.point[ident("b")] == point("title\x1fthe chain")
    assert found.point[ident("c")] == point(ident("c"))


def test_when_posts_come_only_what_they_join_can_move() -> None:
    """Posts come one by one, and groups grow together: one of the groups that a post joins keeps its side and draws
    the others to it; nothing else moves."""
    rng = random.Random(5)
    posts: list[dict[str, Any]] = []
    before = grouped(pairs(*posts), 0.8)
    moved = 0
    for i in range(120):
        posts.append({"id": str(i), "thread": str(rng.randrange(60)), "title": f"title {rng.randrange(60)}"})
        now = grouped(pairs(*posts), 0.8)
        joined = now.group[ident(str(i))]
        changed = {u for u in before.point if (before.point[u] < 0.3) != (now.point[u] < 0.3)}
        assert all(now.group[u] == joined for u in changed)
        old = {before.group[u]: before.point[u] for u in before.group if now.group[u] == joined}
        assert not old or now.point[ident(str(i))] in {*old.values(), point(f"thread\x1f\x1f{posts[-1]['thread']}")}
        moved += bool(changed)
        before = now
    assert moved, "no groups grew together here: the test shows nothing"


def test_large_groups_are_held_out_as_often_as_small_ones() -> None:
    for members in (1, 12):
        posts = [
            {"id": f"{i} {k}", "thread": f"{i} {k}", "title": f"title {i}"} for i in range(300) for k in range(members)
        ]
        found = grouped(pairs(*posts), 0.8)
        groups = {found.group[ugc_id]: found.point[ugc_id] for ugc_id in found.group}
        assert len(groups) == 300
        # Four standard deviations of a binomial around 60.
        assert abs(sum(place < 0.2 for place in groups.values()) - 60) < 28


def test_groups_do_not_depend_on_the_order_of_rows() -> None:
    posts = [{"id": str(i), "thread": str(i % 7), "title": f"title {i % 5}"} for i in range(30)]
    frame = pairs(*posts)
    first = grouped(frame, 0.8)
    for seed in range(3):
        assert grouped(frame.sample(fraction=1, shuffle=True, seed=seed), 0.8) == first


def open_posts(**config: Any) -> pl.DataFrame:
    build = Ugc(UgcConfig(fields=Fields(thread=("group",)), **config), lambda _: str(OPEN_POSTS)).build("a", {})
    with pytest.raises(StopIteration) as stop:
        next(build)
    frame: pl.DataFrame = stop.value.value
    return frame.filter("keep")


@pytest.mark.slow
@pytest.mark.skipif(not OPEN_POSTS.exists(), reason="the open posts are not beside this checkout")
def test_no_open_post_that_is_held_out_has_its_thread_or_title_in_training() -> None:
    """By hash of the text alone, 327 of 801 have."""
    posts = open_posts(near_duplicates="keep", questions=True)
    assert posts.height - open_posts(questions=True).height == 11
    frame = posts.with_columns(post="text", pair_id="ugc_id", instruction="ugc_id")
    found = grouped(frame, 0.8)

    def shared(side: pl.Expr) -> tuple[int, int]:
        sided = posts.with_columns(test=side)
        train, test = sided.filter(~pl.col("test")), sided.filter("test")
        threads, titles = train["source", "thread"].unique(), train["title"].drop_nulls().unique()
        leaked = test.filter(
            pl.struct("source", "thread").is_in(threads.to_struct().implode()) | pl.col("title").is_in(titles.implode())
        )
        return leaked.height, test.height

    alone = {ugc_id: point(ugc_id) < 0.1 for ugc_id in found.point}
    by_group = {ugc_id: place < 0.1 for ugc_id, place in found.point.items()}
    assert shared(pl.col("ugc_id").replace_strict(alone, return_dtype=pl.Boolean)) == (327, 801)
    leaked, held_out = shared(pl.col("ugc_id").replace_strict(by_group, return_dtype=pl.Boolean))
    assert leaked == 0
    assert 600 < held_out < 950
