"""The bundled posts: what their README says of them, and that the demo can show it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

import pugc_core
from pugc_bundled.tiny import corpus
from pugc_core import recipe
from pugc_core.stages.ugc import Ugc

SHARDS = sorted((Path(pugc_core.__file__).parent / "sample").glob("*.jsonl"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(path: Path) -> pl.DataFrame:
    build = Ugc(recipe.load("tiny").ugc, lambda _: str(path)).build(path.stem, {})
    try:
        next(build)
    except StopIteration as stop:
        frame: pl.DataFrame = stop.value
        return frame
    raise AssertionError("the stage asks no model")


def test_the_domains_that_docs_and_stories_name_are_there() -> None:
    assert {"kitchen", "garden", "bicycle"} < {path.stem for path in SHARDS}
    assert len(SHARDS) >= 5


def test_every_post_is_ours_and_short_enough_for_a_demo() -> None:
    posts = [post for path in SHARDS for post in rows(path)]
    assert {post["license"] for post in posts} == {"CC0-1.0"}
    assert len({post["id"] for post in posts}) == len({post["url"] for post in posts}) == len(posts) <= 56
    assert max(len(post["body"].split()) for post in posts) <= 260
    assert sum(len(post["body"].split()) < 90 for post in posts) == 1  # the one that is too short
    assert any(post["title"] is None for post in posts)
    for post in posts:
        assert post["id"].rpartition("-")[0] in post["url"]
        assert list(post) == list(posts[0])


def test_each_reason_shows_and_most_of_every_shard_is_kept() -> None:
    reasons: Counter[str] = Counter()
    for path in SHARDS:
        found = table(path)
        dropped = found.filter(~pl.col("keep"))["drop_reason"].to_list()
        assert len(dropped) <= 2, path.stem
        reasons.update(dropped)
    assert reasons == {"question": 2, "duplicate": 1, "near_duplicate": 1, "too_short": 1}


def test_a_post_that_asks_stands_in_a_thread_with_its_answer() -> None:
    for path in SHARDS:
        threads: dict[str, set[str]] = {}
        for post in rows(path):
            if post["thread"]:
                threads.setdefault(post["thread"], set()).add(post["kind"])
            assert post["thread"] or post["kind"] != "question", post["id"]
        assert all(kinds == {"question", "answer"} for kinds in threads.values()), path.stem


def test_for_the_tiny_model_posts_that_ask_are_left_out_and_a_title_may_be_missing() -> None:
    posts = [post for path in SHARDS for post in rows(path)]
    documents = [document for side in corpus.load(None) for document in side]
    asked = {corpus.clean(post["body"]): post for post in posts}
    assert len(documents) == sum(post["kind"] != "question" for post in posts)
    for document in documents:
        title = asked[document.text]["title"]
        assert bool(document.question) == bool(document.answer) == bool(title)
        assert document.question == title or not (title or "").endswith("?")
