"""Texts made of posts: responses to grade, from the base's answers to sentences of another post, and damaged posts."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pugc_bundled.roles import phrases
from pugc_bundled.roles.corpus import Post, begun
from pugc_bundled.roles.neighbours import Neighbours
from pugc_bundled.tiny.text import Salience, cut_off, sentences, shuffle_sentences, shuffle_words

DAMAGE = ("shuffled", "reordered", "cut", "mixed", "repeated", "vague", "advert")


class Sampled:
    """What the base said (`sample`): answers by the key of the post, rewordings likewise."""

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self.answers: dict[str, list[str]] = defaultdict(list)
        self.reworded: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for row in rows:
            said = str(row["said"])
            if row["cut_off"]:
                said = " ".join(sentences(said)[:-1])
            if len(said.split()) < 4:
                continue
            if row["kind"] == "answer":
                self.answers[row["key"]].append(said)
            else:
                self.reworded[row["key"]].append((row["text"], said))


class Material:
    """Makes texts from the posts of one side; `bank` has the lines that say nothing."""

    def __init__(
        self, posts: Sequence[Post], salience: Salience, rng: random.Random, sampled: Sampled, bank: phrases.Bank
    ) -> None:
        self.rng = rng
        self.salience = salience
        self.sampled = sampled
        self.bank = bank
        self.posts = list(posts)
        self.near = Neighbours(posts, salience)
        self._of_source: dict[str, list[Post]] = defaultdict(list)
        for post in posts:
            self._of_source[post.source].append(post)

    def other(self, post: Post) -> Post:
        """Another post, mostly of the same source."""
        pool = self._of_source[post.source] if self.rng.random() < 0.6 else self.posts
        for _ in range(20):
            if (other := self.rng.choice(pool)).key != post.key:
                return other
        return self.rng.choice(self.posts)

    def response(self, post: Post, question: str, kinds: Collection[str] = ()) -> tuple[str, str]:
        """A response and how it came about: the base's, a person's, or made of sentences of this post and others; one
        of `kinds`, where any are given."""
        rng = self.rng
        makers: dict[str, tuple[float, Callable[[], str]]] = {
            "base": (6.0, lambda: _one(rng, self.sampled.answers.get(post.key, ()))),
            "base_near": (2.5, lambda: self._near_answer(post, question)),
            "base_mixed": (2.0, lambda: self._stirred(_one(rng, self.sampled.answers.get(post.key, ())), post)),
            "reworded": (2.0, lambda: _one(rng, [said for _, said in self.sampled.reworded.get(post.key, ())])),
            "human": (1.0, lambda: post.answer if post.answer and post.answer not in post.text else ""),
            "kept": (2.0, lambda: self._kept(post)),
            "swapped": (2.0, lambda: self._stirred(begun(self.other(post).text, rng.randint(15, 60)), post)),
            "foreign": (0.7, lambda: begun(self.other(post).text, rng.randint(20, 80))),
            "contradicted": (1.2, lambda: contradicted(self._kept(post), rng)),
            "padded": (1.0, lambda: self.padded(self._kept(post))),
        }
        wanted = {kind: maker for kind, maker in makers.items() if not kinds or kind in kinds}
        while True:
            kind = rng.choices(list(wanted), [weight for weight, _ in wanted.values()])[0]
            if text := makers[kind][1]():
                return text, kind

    def _kept(self, post: Post) -> str:
        parts = sentences(post.text)
        count = min(len(parts), self.rng.randint(1, 5))
        if self.rng.random() < 0.5:
            start = self.rng.randrange(len(parts) - count + 1)
            return " ".join(parts[start : start + count])
        return " ".join(parts[at] for at in sorted(self.rng.sample(range(len(parts)), count)))

    def _near_answer(self, post: Post, question: str) -> str:
        other = self.near.near(post, question, self.rng)
        return _one(self.rng, self.sampled.answers.get(other.key, ())) if other else ""

    def _stirred(self, text: str, post: Post) -> str:
        """Sentences of `text` with some of the post's among them."""
        if not text:
            return ""
        parts = [*sentences(text), *sentences(self._kept(post))[: self.rng.randint(1, 3)]]
        self.rng.shuffle(parts)
        return " ".join(parts)

    def padded(self, response: str) -> str:
        """The same with words around it that say nothing."""
        before, after = self.rng.choice(self.bank.opening), self.rng.choice(self.bank.closing)
        middle = self.rng.sample(self.bank.filler, self.rng.randint(0, 2))
        return " ".join(part for part in (before, response, *middle, after) if part)

    def damage(self, kind: str, post: Post) -> str:
        """The post's text, damaged in that way."""
        rng, text = self.rng, post.text
        if kind == "shuffled":
            return shuffle_words(text, rng)
        if kind == "reordered" and len(sentences(text)) >= 4:
            return shuffle_sentences(text, rng)
        if kind in ("cut", "reordered"):
            return cut_off(text, rng)
        if kind == "mixed":
            parts = sentences(text)[:8] + sentences(begun(self.other(post).text, 150))[:8]
            rng.shuffle(parts)
            return " ".join(parts)
        if kind == "repeated":
            parts = sentences(text)
            again = rng.sample(parts, min(len(parts), rng.randint(1, 3)))
            return " ".join([*parts[: rng.randint(0, 3)], *again * rng.randint(3, 5)])
        topic = (self.salience(text, 3) or ["it"])[0]
        lines = list(self.bank.vague if kind == "vague" else self.bank.advert)
        chosen = rng.sample(lines, rng.randint(4, min(9, len(lines))))
        if rng.random() < 0.5:
            chosen.insert(rng.randrange(len(chosen)), rng.choice(sentences(text)))
        return " ".join(line.replace("{t}", topic).replace("{n}", str(rng.randint(10, 90))) for line in chosen)


def _one(rng: random.Random, found: Sequence[str]) -> str:
    return rng.choice(found) if found else ""


_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")
_VERB = re.compile(r"\b(is|are|was|were|can|should|will|must|does|do|has|have)\b(?! not|n't)")


def contradicted(text: str, rng: random.Random) -> str:
    """`text` with one number changed or one verb denied; empty where it has neither."""
    numbers, verbs = list(_NUMBER.finditer(text)), list(_VERB.finditer(text))
    if numbers and (not verbs or rng.random() < 0.6):
        match = rng.choice(numbers)
        value = float(match.group())
        other = value * rng.choice((2, 3, 5, 10)) + rng.choice((0, 1, 2))
        return f"{text[: match.start()]}{other:g}{text[match.end() :]}"
    if verbs:
        match = rng.choice(verbs)
        return f"{text[: match.end()]} not{text[match.end() :]}"
    return ""


def changed(response: str, post: str) -> tuple[str, str] | None:
    """The phrase of a contradicted response that the post has otherwise, and how the post has it."""
    for sentence in sentences(response):
        if sentence in post:
            continue
        words = sentence.split()
        for original in sentences(post):
            theirs = original.split()
            at = next((i for i, (a, b) in enumerate(zip(words, theirs, strict=False)) if a != b), None)
            if at is None or not (words[at + 1 :] == theirs[at + 1 :] or words[at + 1 :] == theirs[at:]):
                continue
            start = max(0, at - 1)
            return _bare(words[start : at + 2]), _bare(theirs[start : at + 2])
    return None


def _bare(words: Sequence[str]) -> str:
    return " ".join(words).replace('"', "").rstrip(".,;:")
