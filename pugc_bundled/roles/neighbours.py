"""Questions that are hard to tell from a post's own: those of other posts of its source, the most alike first."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from pugc_bundled.roles.corpus import Post
from pugc_bundled.roles.grading import gist
from pugc_bundled.tiny.text import Salience


class Neighbours:
    """The posts with a question, found by the words of their questions."""

    def __init__(self, posts: Sequence[Post], salience: Salience) -> None:
        self._asked = [p for p in posts if p.question]
        self._weight = salience.weight
        self._by_word: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._words = [gist(p.question) for p in self._asked]
        for at, words in enumerate(self._words):
            for word in words:
                self._by_word[self._asked[at].source, word].append(at)
        self._of_source: dict[str, list[int]] = defaultdict(list)
        for at, post in enumerate(self._asked):
            self._of_source[post.source].append(at)

    def near(self, post: Post, question: str, rng: random.Random) -> Post | None:
        """A post whose question is near to `question` and yet another; None where the source has none."""
        scores: dict[int, float] = defaultdict(float)
        words, there = gist(question), gist(post.text)
        for word in sorted(words):
            for at in self._by_word.get((post.source, word), ())[:400]:
                scores[at] += self._weight(word)
        ranked = sorted(scores, key=lambda at: (-scores[at], at))
        found = [at for at in ranked[:40] if self._is_other(at, post, words, there)][:6]
        pool = found if found and rng.random() < 0.75 else self._of_source.get(post.source, [])
        pool = [at for at in pool if self._asked[at].key != post.key]
        return self._asked[rng.choice(pool)] if pool else None

    def _is_other(self, at: int, post: Post, words: set[str], there: set[str]) -> bool:
        """Whether it is another question and one that the post hardly answers: it names something of its own."""
        other = self._words[at]
        return self._asked[at].key != post.key and len(other & words) < 0.7 * len(other) and bool(other - there)
