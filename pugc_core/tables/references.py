"""Another post for every post, at random over all posts of a recipe: what `[rewards] reference = "random"` shows.

All kept posts stand in a ring, in the order of their ids. Those are hashes of their texts, so the order has nothing to
do with what they say or with the shards they came in. Each post takes the next one that is of another thread. A new
post changes the reference of the post before it and of hardly any other; a table records which it was made with.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from pugc_core.config import digest
from pugc_core.errors import StorageError
from pugc_core.stages.base import Stage
from pugc_core.stages.rewards import REFERENCE
from pugc_core.tables.store import Store, Tables


def wanted(stage: Stage) -> bool:
    """Whether a stage shows its models other posts than those that it judges by."""
    return stage.fingerprint.get(REFERENCE) == "random"


class _Post(NamedTuple):
    ugc_id: str
    shard: str
    """A shard whose table has it."""
    thread: str | None


class _Ring(NamedTuple):
    ids: Sequence[str]
    """Sorted, as are the posts."""
    posts: Sequence[_Post]
    by_shard: Mapping[str, Sequence[str]]
    """Ids of a shard's kept posts, sorted."""


class References:
    """The references within one recipe, over the tables `ugc` that there are of `shards` (of all, unless named)."""

    def __init__(self, tables: Tables, shards: Iterable[str] | None = None) -> None:
        self._tables = tables
        self._shards = None if shards is None else set(shards)

    @functools.cached_property
    def _ring(self) -> _Ring:
        footers = self._tables.footers("ugc")
        wanted = footers.keys() if self._shards is None else footers.keys() & self._shards
        return _ring(
            self._tables.store,
            self._tables.owner("ugc"),
            tuple((shard, footers[shard].content) for shard in sorted(wanted)),
        )

    def other(self, ugc_id: str) -> str | None:
        """The post that stands in for a post; None where there is none of another thread."""
        found = self._next(ugc_id)
        return found.ugc_id if found else None

    def text(self, ugc_id: str) -> str | None:
        """What the judge is shown in place of a post."""
        found = self._next(ugc_id)
        return self._texts(found.shard, [found.ugc_id])[found.ugc_id] if found else None

    def state(self, shard: str) -> str:
        """Twelve hex digits over the references of a shard's posts. Ids are hashes of texts: they say it all."""
        return digest([[ugc_id, self.other(ugc_id)] for ugc_id in self._ring.by_shard.get(shard, ())])

    def table(self, shard: str) -> pl.DataFrame:
        """Columns ugc_id, of each kept post of a shard, and ugc, the text of its reference (null where it has none)."""
        found = {ugc_id: self._next(ugc_id) for ugc_id in self._ring.by_shard.get(shard, ())}
        homes: dict[str, list[str]] = {}
        for post in found.values():
            if post:
                homes.setdefault(post.shard, []).append(post.ugc_id)
        texts = {ugc_id: text for home, ids in homes.items() for ugc_id, text in self._texts(home, ids).items()}
        rows = [(ugc_id, texts[post.ugc_id] if post else None) for ugc_id, post in found.items()]
        return pl.DataFrame(rows, schema={"ugc_id": pl.String(), "ugc": pl.String()}, orient="row")

    def _next(self, ugc_id: str) -> _Post | None:
        ring = self._ring
        start = bisect_right(ring.ids, ugc_id)
        there = start > 0 and ring.ids[start - 1] == ugc_id
        thread = ring.posts[start - 1].thread if there else None
        for step in range(len(ring.posts) - there):
            post = ring.posts[(start + step) % len(ring.posts)]
            if post.thread is None or post.thread != thread:
                return post
        return None

    def _texts(self, shard: str, ids: Sequence[str]) -> dict[str, str]:
        table = self._tables.read("ugc", shard, ["ugc_id", "text", "keep"])
        texts = dict(table.filter("keep", pl.col("ugc_id").is_in(ids)).select("ugc_id", "text").iter_rows())
        if missing := set(ids) - texts.keys():
            raise StorageError(
                f"the table ugc of shard {shard} no longer has {len(missing)} posts that stand in for others",
                fix="it was made again meanwhile; run the same command again",
            )
        return texts


@functools.lru_cache(maxsize=4)
def _ring(store: Store, owner: str, contents: tuple[tuple[str, str], ...]) -> _Ring:
    # Remembered by the tables' contents: what is out of date is asked for many times, and they seldom change.
    by_shard: dict[str, Sequence[str]] = {}
    posts: dict[str, _Post] = {}
    for shard, _ in contents:
        kept = store.read(owner, "ugc", shard, ["ugc_id", "thread", "keep"]).filter("keep")
        by_shard[shard] = sorted(kept["ugc_id"])
        for ugc_id, thread in kept.select("ugc_id", "thread").iter_rows():
            known = posts.get(ugc_id)
            # The same text in two shards is one post; which shard came first must not matter.
            if known is None or (known.thread or "") < (thread or ""):
                posts[ugc_id] = _Post(ugc_id, known.shard if known else shard, thread)
    ids = sorted(posts)
    return _Ring(ids, [posts[ugc_id] for ugc_id in ids], by_shard)
