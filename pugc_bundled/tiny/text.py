"""What the training tasks do with words: sentences, excerpts, key words, overlap, and damage by rule."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable

WORD = re.compile(r"[A-Za-z][A-Za-z'-]*[A-Za-z]")
_SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*(?=\s)|\Z)", re.DOTALL)
_FUNCTION_WORDS = """
about above after again against almost along already also although always among another anyone anything around away
because been before being below between both came cannot come comes could does doing done down during each either else
even ever every everyone everything feel find first from gave getting give given gives goes going gone good great have
having here hers herself himself into itself just keep kind know known large last later least less like likely little
look made make makes making many maybe might mine more most much must myself need needs never next none nothing often
once only onto other others otherwise ours over part people perhaps please possible quite rather really right said
same says second seem seems seen several shall should simply since some someone something still such sure take taken
takes than that thats their theirs them themselves then there therefore these they thing things think this those
though three through thus time together told took toward under until upon used uses using usually very want wants well
went were what whatever when where whether which while whole whom whose will with within without would year years your
yours yourself example called number different important however based first don't doesn't didn't it's isn't can't i'm
i've you're that's there's won't wasn't aren't they're we're couldn't
"""
STOP = frozenset(_FUNCTION_WORDS.split())


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, each without surrounding blank space."""
    return [match.group(0).strip() for match in _SENTENCE.finditer(text) if match.group(0).strip()]


def excerpt(text: str, words: int) -> str:
    """The beginning of `text` up to `words` words, cut at the end of a sentence; paragraphs stay. May be empty."""
    end, count = 0, 0
    for match in _SENTENCE.finditer(text):
        count += len(match.group(0).split())
        if count > words:
            break
        end = match.end()
    return text[:end].strip()


def content(text: str) -> list[str]:
    """The words of a text that carry its content: lower case, four letters or more, no function words."""
    return [w for w in (m.group(0).lower() for m in WORD.finditer(text)) if len(w) > 3 and w not in STOP]


def overlap(response: str, reference: str) -> float:
    """Word-overlap F1 of two texts, over their content words, counted without repeats."""
    ours, theirs = set(content(response)), set(content(reference))
    shared = len(ours & theirs)
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


class Salience:
    """Which words of a text say what it is about: frequent in the text, rare among the texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.seen: Counter[str] = Counter()
        self.texts = 0
        for text in texts:
            self.texts += 1
            self.seen.update(set(content(text)))

    def __call__(self, text: str, count: int) -> list[str]:
        """The `count` most salient words, best first, each spelt as in the text."""
        spelt = {m.group(0).lower(): m.group(0) for m in reversed(list(WORD.finditer(text)))}
        here = Counter(content(text))
        weight = {w: math.sqrt(n) * min(self._rarity(w), 5.0) for w, n in here.items()}
        return [spelt[w] for w in sorted(weight, key=lambda w: (-weight[w], w))[:count]]

    def weight(self, word: str) -> float:
        """How rare a word is among the texts, 0.1 to 5."""
        return min(max(self._rarity(word.lower()), 0.1), 5.0)

    def _rarity(self, word: str) -> float:
        return math.log((1 + self.texts) / (1 + self.seen[word]))


def shuffle_words(text: str, rng: random.Random) -> str:
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def shuffle_sentences(text: str, rng: random.Random) -> str:
    parts = sentences(text)
    rng.shuffle(parts)
    return " ".join(parts)


def drop_words(text: str, share: float, rng: random.Random) -> str:
    return " ".join(w for w in text.split() if rng.random() >= share)


def cut_off(text: str, rng: random.Random) -> str:
    """The text broken off in the middle of a sentence, after at least half of its words."""
    words = text.split()
    keep = max(2, int(len(words) * rng.uniform(0.5, 0.9)))
    while keep > 2 and words[keep - 1][-1] in ".!?,;:":
        keep -= 1
    return " ".join(words[:keep])


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
