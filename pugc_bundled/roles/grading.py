"""The rule that grades a response against a post: how much of the post's content it has, and nothing else.

The question's own words count for neither side, so repeating the question earns nothing. Words without content count
for nothing, so padding moves little. The judge learns this rule on responses whose words it can compare. It is measured
against people where the rule does not reach (see the card).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pugc_bundled.tiny.text import STOP

ENOUGH = 48
"""Content words of a post that a response can be expected to have; those of a longer post are not held against it."""
FULL, BEND = 0.75, 0.55
"""Overlap from which a response earns a 5, and how the scale bends below it: answers in words of their own share little
with a post, good ones too, and would else all earn a 1."""
LONG = 6
"""Words of the longest phrase that feedback quotes."""
_STEM = 6
_JOIN = re.compile(r",? |[-/]")
_TOKEN = re.compile(r"[A-Za-z][A-Za-z'’-]*[A-Za-z]|\d+(?:[.,]\d+)*")


def stem(word: str) -> str:
    """What two forms of a word have in common, roughly: its first six letters in lower case."""
    return word.lower()[:_STEM]


def gist(text: str) -> set[str]:
    """Stems of the content words of a text, and its numbers."""
    return {stem(m.group()) for m in _TOKEN.finditer(text) if _tells(m.group())}


def _tells(word: str) -> bool:
    if word[0].isdigit():
        return len(word) > 1  # "1." to "9." number the lines of a list
    return len(word) > 3 and word.lower().replace("’", "'") not in STOP


class Overlap(NamedTuple):
    """The content of a response and of its post beyond the question's own words, as stems."""

    shared: set[str]
    response: set[str]
    post: set[str]

    @property
    def share(self) -> float:
        """0 to 1: F1, where at most ENOUGH of the post's words are wanted."""
        return 2 * len(self.shared) / max(1, len(self.response) + min(len(self.post), ENOUGH)) if self.shared else 0.0

    @property
    def score(self) -> float:
        """The share on the scale of a vote, 1 to 5, not rounded."""
        return float(1 + 4 * min(1.0, self.share / FULL) ** BEND)


def compare(response: str, post: str, question: str) -> Overlap:
    """The content of both texts beyond that of the question."""
    asked = gist(question)
    ours, theirs = gist(response) - asked, gist(post) - asked
    return Overlap(ours & theirs, ours, theirs)


def quotes(
    text: str, wanted: set[str], barred: set[str], count: int, rng: random.Random, weight: Callable[[str], float]
) -> list[str]:
    """Up to `count` phrases of `text`, of up to LONG words each: they begin and end with a word whose stem is in
    `wanted`, have none whose stem is in `barred`, and stay within a clause. No stem comes twice. Long phrases come
    more often, and those that begin with a word of more `weight`."""
    words = list(_TOKEN.finditer(text))
    stems = [stem(m.group()) if _tells(m.group()) else "" for m in words]
    spans: list[tuple[int, int]] = []
    for first in (i for i, s in enumerate(stems) if s in wanted):
        last = first
        for at in range(first + 1, min(first + LONG, len(words))):
            if stems[at] in barred or not _JOIN.fullmatch(text, words[at - 1].end(), words[at].start()):
                break
            if stems[at] in wanted:
                last = at
        spans.append((first, last + 1))
    chosen: list[str] = []
    used: set[str] = set()
    while len(chosen) < count and (free := [s for s in spans if used.isdisjoint(stems[slice(*s)])]):
        first, end = rng.choices(free, [weight(words[a].group()) * (b - a) ** 2 for a, b in free])[0]
        used |= set(stems[first:end]) - {""}
        chosen.append(text[words[first].start() : words[end - 1].end()])
    return chosen


def quoted(phrases: Sequence[str]) -> str:
    """`"a"`, `"a" and "b"`, `"a", "b" and "c"`."""
    marked = [f'"{phrase}"' for phrase in phrases]
    return marked[0] if len(marked) == 1 else f"{', '.join(marked[:-1])} and {marked[-1]}"


def rounded(value: float, rng: random.Random) -> int:
    """One of the two whole numbers beside `value`, the nearer one more often, so that the mean of many is `value`."""
    below = int(value)
    return below + (rng.random() < value - below)
