"""Near-duplicates: texts that share most of their words, word by word in a row.

Two texts are near-duplicates when the Jaccard similarity of their shingles (runs of words) reaches a threshold. MinHash
and its bands only find the candidates: a pair at 0.7 is found with a probability of 0.995, one at 0.8 with 0.999997.
The similarity itself is counted, not estimated, so that nothing is called a near-duplicate which is none.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import polars as pl
from rensa import RMinHash, RMinHashLSH

POST = (3,)
"""Words per shingle of a post: one word changed in a post of 200 characters leaves a similarity of about 0.8."""
QUESTION = (1, 2)
"""Words per shingle of a question, which is short: one word changed in ten leaves a similarity of 0.73."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""A word; where a script does without spaces (Thai, Lao, Burmese, Khmer, Japanese, Chinese), a character."""
_BANDS, _ROWS = 42, 6
_SLACK = 0.12
"""Four standard deviations of the estimate from 252 values: below the threshold less this, nothing is counted."""
_AT_ONCE = 1000
_INDEXED = 64
"""Members of a cluster that later texts are compared with, so that ten thousand copies take no longer than others."""


def words(text: str) -> list[str]:
    """The words of a text, whatever their case and what stands between them."""
    return _WORD.findall(text.casefold())


def shingles(text: str, sizes: Sequence[int]) -> set[str]:
    """Its runs of so many words; of a text with fewer, the whole. Empty when there is no word."""
    found = words(text)
    return {" ".join(found[i : i + n]) for n in sizes if found for i in range(max(1, len(found) - n + 1))}


def similarity(a: set[str], b: set[str]) -> float:
    """Jaccard: the share of all shingles that both have. Texts without any word are like none."""
    return len(a & b) / len(a | b) if a or b else 0.0


def overlap(texts: Sequence[str]) -> float | None:
    """Mean over all pairs of texts of the share of words that both have (Jaccard of their sets of words), 0 to 1; None
    of fewer than two."""
    found = [set(words(text)) for text in texts]
    shares = [similarity(a, b) for a, b in itertools.combinations(found, 2)]
    return sum(shares) / len(shares) if shares else None


class Union:
    """Disjoint sets of things; `first` names each by whichever of its members was seen first."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}
        self._age: dict[Hashable, int] = {}

    def first(self, thing: Hashable) -> Any:
        self._age.setdefault(thing, len(self._age))
        root = self._parent.setdefault(thing, thing)
        while root != self._parent[root]:
            root = self._parent[root]
        while thing != root:  # so that the way is short the next time
            self._parent[thing], thing = root, self._parent[thing]
        return root

    def join(self, one: Hashable, other: Hashable) -> None:
        a, b = self.first(one), self.first(other)
        old, young = (a, b) if self._age[a] <= self._age[b] else (b, a)
        self._parent[young] = old


def clusters(texts: Sequence[str], threshold: float, sizes: Sequence[int]) -> list[int]:
    """For each text the number of the first one of its cluster: itself, when no earlier text is near.

    A cluster is what near-duplicates hold together: when a is near b and b is near c, all three are one, as elsewhere
    where data is deduplicated (FineWeb, for one).
    """
    index, sets = RMinHashLSH(threshold, _BANDS * _ROWS, _BANDS), Union()
    hashes: list[Any] = []
    members: Counter[int] = Counter()
    for number, shingled, signature in _signatures(texts, sizes):
        hashes.append(signature)
        sets.first(number)
        if not shingled:
            continue
        for earlier in sorted(index.query(signature)):
            if sets.first(earlier) == sets.first(number):
                continue  # a thousand copies of one text are not compared each with each
            if signature.jaccard(hashes[earlier]) < threshold - _SLACK:
                continue
            if similarity(shingled, shingles(texts[earlier], sizes)) >= threshold:
                sets.join(earlier, number)
        members[cluster := sets.first(number)] += 1
        if members[cluster] <= _INDEXED:
            index.insert(number, signature)
    return [sets.first(number) for number in range(len(texts))]


def _signatures(texts: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[int, set[str], Any]]:
    for start in range(0, len(texts), _AT_ONCE):
        some = [shingles(text, sizes) for text in texts[start : start + _AT_ONCE]]
        made = RMinHash.from_token_sets([list(s) for s in some], num_perm=_BANDS * _ROWS, seed=1)
        for place, (shingled, signature) in enumerate(zip(some, made, strict=True)):
            yield start + place, shingled, signature


def dropped(posts: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """A table `ugc`, of whose kept rows those are dropped that a row before them is near to."""
    placed = posts.with_row_index("place")
    kept = placed.filter("keep")
    first = clusters(kept["text"].to_list(), threshold, POST)
    copies = kept.select("place", original=kept["line"].gather(first)).filter(
        pl.Series(first, dtype=pl.Int64) != pl.int_range(len(first))
    )
    copy = pl.col("original").is_not_null()
    return (
        placed.join(copies, on="place", how="left", maintain_order="left")
        .with_columns(
            keep=pl.col("keep") & ~copy,
            drop_reason=pl.when(copy).then(pl.lit("near_duplicate")).otherwise("drop_reason"),
            detail=pl.when(copy).then(pl.format("near-duplicate of line {}", "original")).otherwise("detail"),
        )
        .select(posts.columns)
    )
