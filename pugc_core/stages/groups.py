"""Which pairs belong together, so that all of them stand on one side of the split into train and test.

Posts of one thread, posts of one title, near-duplicate posts and posts of near-duplicate questions are one group, and
so is whatever several of these hold together. Decision 11 says why the sides come about as they do.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from pugc_core.stages import near
from pugc_core.stages.near import Union
from pugc_core.stages.records import make_id

QUESTIONS = 0.7
"""Share of words and pairs of words from which two questions are near-duplicates."""
_REPLY = re.compile(r"\A(?:\s*(?:re|fwd?|aw|sv)\s*:)+", re.IGNORECASE)


class Grouped(NamedTuple):
    """What the posts of a set of pairs belong to, by ugc_id."""

    group: dict[str, str]
    """an id of the post's group"""
    point: dict[str, float]
    """where its group stands between 0 and 1; below the test share is the test side"""
    copy_of: dict[str, str]
    """for a near-duplicate, the post that stands for it: the first by shard and line"""


def grouped(pairs: pl.DataFrame, similarity: float) -> Grouped:
    """The groups of `pairs`: columns shard, line, ugc_id, post, title, source, thread and instruction."""
    rows = list(pairs.sort("shard", "line", "pair_id").iter_rows(named=True))
    posts = {row["ugc_id"]: row for row in reversed(rows)}
    ids = sorted(posts, key=lambda ugc_id: (posts[ugc_id]["shard"], posts[ugc_id]["line"], ugc_id))
    sets, copy_of = Union(), {}
    first = near.clusters([posts[ugc_id]["post"] for ugc_id in ids], similarity, near.POST)
    for place, ugc_id in enumerate(ids):
        sets.join(("post", ids[first[place]]), ("post", ugc_id))
        if first[place] != place:
            copy_of[ugc_id] = ids[first[place]]
    questions = sorted({row["instruction"] for row in rows})
    alike = near.clusters(questions, QUESTIONS, near.QUESTION)
    standing = {question: questions[place] for question, place in zip(questions, alike, strict=True)}
    keys: dict[str, set[str]] = {}
    for row in rows:
        for key in (_thread(row), _title(row), ("question", standing[row["instruction"]])):
            if key:
                sets.join(key, ("post", row["ugc_id"]))
        keys.setdefault(sets.first(("post", row["ugc_id"])), set()).add(_own_key(row))
    of_set: dict[Any, set[str]] = {}
    for root, found in keys.items():  # the sets have grown together meanwhile
        of_set.setdefault(sets.first(root), set()).update(found)
    speaker = {root: min(found, key=_rank) for root, found in of_set.items()}
    own = {ugc_id: speaker[sets.first(("post", ugc_id))] for ugc_id in ids}
    return Grouped(
        {ugc_id: make_id("group", key) for ugc_id, key in own.items()},
        {ugc_id: point(key) for ugc_id, key in own.items()},
        copy_of,
    )


def point(key: str) -> float:
    """A place in [0, 1) for a thread, a title or a post; the same in every version, run and recipe."""
    return _hash("split", key) / 2**64


def _rank(key: str) -> int:
    """The least of a group speaks for it: which one it is has nothing to do with where it stands."""
    return _hash("rank", key)


def _hash(what: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{what}\x1f{key}".encode()).digest()[:8], "big")


def _own_key(post: Mapping[str, Any]) -> str:
    """What a post is split by where nothing joins it with others: its thread, else its title, else itself."""
    return "\x1f".join(_thread(post) or _title(post) or (post["ugc_id"],))


def _thread(post: Mapping[str, Any]) -> tuple[str, ...] | None:
    # Two sites may both have a thread 7.
    return ("thread", post["source"] or "", post["thread"]) if post["thread"] else None


def _title(post: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Its title, without case, punctuation and marks of a reply; None where nothing is left of it."""
    plain = _REPLY.sub("", unicodedata.normalize("NFKC", post["title"] or ""))
    found = near.words(plain)
    return ("title", " ".join(found)) if found else None
