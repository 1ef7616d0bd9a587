"""What the roles adapter learns from: a post, and what each role should say about it, in the pipeline's own prompts.

A `Reading` is one post with all that is asked of it. Its prompts begin alike (the wordings "post-first"), so a training
step reads the post once for a dozen answers. Targets are people's own where people have spoken (questions, votes,
judgments) and a rule's elsewhere (`grading`); a rule's scores are rounded at random to one of their two neighbours, so that
the mean of several votes comes close to them.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pugc_core.prompts import instructions, quality, relevance, rewards
from pugc_core.prompts.base import Message
from pugc_core.smollm2 import corpus, phrases
from pugc_core.smollm2.corpus import Judgment, Post, begun
from pugc_core.smollm2.grading import compare, gist, quoted, quotes, rounded
from pugc_core.tiny.text import Salience, cut_off, sentences, shuffle_sentences, shuffle_words

WORDING = "post-first"
TEXT, FIXED, PICKED, DIGIT, VERDICT = 1.0, 0.2, 0.5, 6.0, 10.0
"""Weights of the loss: a question's words, words that always stand there, quoted words, a score, True or False."""
QUESTION = 2.0
VOTES = 4
"""Responses to a post that are voted on in one reading."""
DAMAGED = 0.3
"""Share of readings whose post is damaged; only its quality is asked for."""
JUDGED = 0.06
"""Share of readings that are a judgment of GPT-4."""
DAMAGE = ("shuffled", "reordered", "cut", "mixed", "repeated", "vague", "advert")
Part = tuple[str, float]


@dataclass(frozen=True)
class Branch:
    """One prompt and the answer that it should get, in parts with a weight each. `target` is the score behind the digit
    before rounding, or the truth; `kind` how the text at issue came about."""

    role: str
    messages: tuple[Message, ...]
    parts: tuple[Part, ...]
    target: float | None = None
    kind: str = ""

    @property
    def answer(self) -> str:
        return "".join(text for text, _ in self.parts)


@dataclass
class Reading:
    """A post and what is asked about it."""

    post: Post
    branches: list[Branch] = field(default_factory=list)


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


class Neighbours:
    """For a post the questions that other posts of its source answer, the most alike first: hard to tell from its own."""

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
        """Whether the question is another one, which the post hardly answers too: it names something the post does not."""
        other = self._words[at]
        return self._asked[at].key != post.key and len(other & words) < 0.7 * len(other) and bool(other - there)


class Tasks:
    """Makes readings from the posts of one side. The same posts and generator give the same readings."""

    def __init__(
        self,
        posts: Sequence[Post],
        salience: Salience,
        rng: random.Random,
        sampled: Sampled | None = None,
        judgments: Sequence[Judgment] = (),
        bank: phrases.Bank = phrases.TRAIN,
    ) -> None:
        self.rng = rng
        self.salience = salience
        self.sampled = sampled or Sampled()
        self.judgments = list(judgments)
        self.bank = bank
        self.posts = list(posts)
        self.near = Neighbours(posts, salience)
        self._by_kind: dict[str, list[Post]] = defaultdict(list)
        for post in posts:
            self._by_kind[_family(post)].append(post)
        self._of_source: dict[str, list[Post]] = defaultdict(list)
        for post in posts:
            self._of_source[post.source].append(post)
        self._detail = {kind: sorted(detail(p.text) for p in some) for kind, some in self._by_kind.items()}

    def readings(self) -> Iterator[Reading]:
        """Without end: families of posts in fixed shares, damaged ones and GPT-4's judgments among them."""
        while True:
            draw = self.rng.random()
            if self.judgments and draw < JUDGED:
                yield self.judged(self.rng.choice(self.judgments))
                continue
            post = self.shortened(self.pick())
            if draw < JUDGED + DAMAGED:
                yield Reading(post, [self.damaged(post, self.rng.choice(DAMAGE))])
            else:
                yield self.sound(post)

    def pick(self) -> Post:
        """A post; of communities more often than their share, and of those most often one that the base has answered."""
        families = [name for name in SHARES if self._by_kind[name]]
        pool = self._by_kind[self.rng.choices(families, [SHARES[name] for name in families])[0]]
        for _ in range(8):
            post = self.rng.choice(pool)
            if post.key in self.sampled.answers:
                break
        return post

    def shortened(self, post: Post) -> Post:
        """The post as it is, or its beginning."""
        words = self.rng.choice((70, 110, 160, 220, 300, corpus.LONGEST))
        title = "" if post.title and self.rng.random() < 0.5 else post.title
        body = post.text[len(post.title) :].lstrip() if post.title and post.text.startswith(post.title) else post.text
        body = begun(body, words)
        return Post(
            f"{title}\n\n{body}" if title else body,
            post.source,
            post.kind,
            post.key,
            post.title,
            post.question,
            post.answer,
            post.votes,
        )

    def sound(self, post: Post) -> Reading:
        """Everything that can be asked about a post."""
        reading = Reading(post, [self.quality(post)])
        if (question := self.asked(post)) and (branch := self.instruction(post, question)):
            reading.branches.append(branch)
        question = question or self.shaped(post)
        reading.branches += self.relevance(post, question)
        for _ in range(VOTES):
            response, kind = self.response(post, question)
            reading.branches.append(self.vote(post, question, response, kind))
            if kind not in ("padded", "contradicted") and self.rng.random() < 0.12:
                reading.branches.append(self.vote(post, question, self.padded(response), "padded", graded=response))
        return reading

    def asked(self, post: Post) -> str:
        """The question that people asked, or one made of a recipe's or a guide's title; empty where there is none."""
        if post.question:
            return post.question
        return self.shaped(post) if post.kind in ("recipe", "tutorial") and self.rng.random() < 0.4 else ""

    def shaped(self, post: Post) -> str:
        """A question or an order about a post's title, or about what it speaks of."""
        topic = post.title
        if not topic or len(topic.split()) > 9:
            topic = " and ".join(self.salience(post.text, 2)) or "this"
        forms = phrases.RECIPES if post.kind == "recipe" else phrases.ASKS
        return self.rng.choice(forms).format(t=topic.lower() if post.kind == "recipe" else topic)

    def instruction(self, post: Post, question: str) -> Branch | None:
        if instructions.refers_to_context(question) or instructions.refuses(question) or not gist(question) & gist(post.text):
            return None
        asked = question[:1].upper() + question[1:]
        messages = instructions.WORDINGS[WORDING].render(
            {"example": self.rng.choice(instructions.EXAMPLES), "ugc": post.text}
        )
        return Branch("instructions", messages, ((asked, QUESTION),), kind="own" if question == post.question else "shaped")

    def relevance(self, post: Post, question: str) -> Iterator[Branch]:
        """The post's own question, and others' that are near to it."""
        yield self.verdict(post, question, True)
        for _ in range(self.rng.choice((1, 1, 2))):
            if other := self.near.near(post, question, self.rng):
                yield self.verdict(post, other.question, False)

    def verdict(self, post: Post, question: str, truth: bool) -> Branch:
        messages = relevance.WORDINGS[WORDING].render({"ugc": post.text, "instruction": question})
        kind = "own" if truth else "near"
        return Branch("relevance", messages, ((str(truth), VERDICT),), target=float(truth), kind=kind)

    def quality(self, post: Post) -> Branch:
        """A sound post: 3 to 5 by how much detail it has among its kind and by people's votes, where there are any."""
        ranks = self._detail[_family(post)]
        rank = bisect_left(ranks, detail(post.text)) / max(1, len(ranks))
        worth = rank if post.votes is None else 0.6 * rank + 0.4 * post.votes
        score = 3 if worth < 0.2 else 4 if worth < 0.5 else 5
        named = self.named(post.text, {3: 1, 4: 2, 5: 3}[score])
        form = self.rng.choice(phrases.SOUND[score])
        return self._scored(post.text, form, quoted(named), score, "sound")

    def named(self, text: str, count: int) -> list[str]:
        """Some of the words that tell what a text is about."""
        words = self.salience(text, 6)
        return self.rng.sample(words, min(count, len(words))) or ["it"]

    def damaged(self, post: Post, kind: str) -> Branch:
        text = self.damage(kind, post)
        score, forms = phrases.BROKEN[kind]
        named = self.named(text, 2)
        return self._scored(text, self.rng.choice(forms), quoted(named), score, kind)

    def _scored(self, text: str, form: str, named: str, score: int, kind: str) -> Branch:
        messages = quality.WORDINGS[WORDING].render({"ugc": text})
        before, _, after = form.partition("{words}")
        parts = ((before, TEXT), (named if "{words}" in form else "", PICKED), (after + "\nScore: ", FIXED), (str(score), DIGIT))
        return Branch("quality", messages, tuple(p for p in parts if p[0]), target=score, kind=kind)

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

    def other(self, post: Post) -> Post:
        """Another post, mostly of the same source."""
        pool = self._of_source[post.source] if self.rng.random() < 0.6 else self.posts
        for _ in range(20):
            if (other := self.rng.choice(pool)).key != post.key:
                return other
        return self.rng.choice(self.posts)

    def response(self, post: Post, question: str) -> tuple[str, str]:
        """A response and how it came about: the base's own, a person's, or made of sentences of this post and others."""
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
        while True:
            kind = rng.choices(list(makers), [weight for weight, _ in makers.values()])[0]
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

    def vote(self, post: Post, question: str, response: str, kind: str, graded: str = "") -> Branch:
        """The vote on a response; a padded one earns what `graded`, the one without the padding, does."""
        found = compare(graded or response, post.text, question)
        score = found.score
        wrong = changed(response, post.text) if kind == "contradicted" else None
        if wrong:
            score = max(1.0, score - 1.5)
        return self._voted(post.text, question, response, found.shared, found.post, found.response, score, kind, wrong)

    def judged(self, judgment: Judgment) -> Reading:
        """GPT-4's score of a response; the feedback quotes by rule."""
        reference, response = begun(judgment.reference, 260), begun(judgment.response, 260)
        post = Post(reference, judgment.source, "judged", judgment.instruction, question=judgment.instruction)
        found = compare(response, reference, judgment.instruction)
        question = begun(judgment.instruction, 120)
        branch = self._voted(
            reference, question, response, found.shared, found.post, found.response, judgment.score, "judged", None
        )
        return Reading(post, [branch])

    def _voted(
        self,
        reference: str,
        question: str,
        response: str,
        shared: set[str],
        wanted: set[str],
        said: set[str],
        score: float,
        kind: str,
        wrong: tuple[str, str] | None,
    ) -> Branch:
        rng, weight = self.rng, self.salience.weight
        count = max(1 if shared else 0, rounded(4 * (score - 1) / 4, rng))
        has = quotes(response, shared, count, rng, weight) if count else []
        lacks = quotes(reference, wanted - shared, max(1, 4 - len(has)), rng, weight) if len(has) < 4 else []
        beside = quotes(response, said - wanted, 1, rng, weight) if score < 2 and rng.random() < 0.6 else []
        parts: list[Part] = []
        if has:
            parts += [(phrases.HAS, FIXED), (quoted(has), PICKED)]
            parts += [(phrases.BUT_NOT, DIGIT / 3), (quoted(lacks), PICKED)] if lacks else []
        else:
            parts += [(phrases.NOTHING, DIGIT / 3), (quoted(lacks), PICKED)] if lacks else [(phrases.EMPTY, FIXED)]
        parts.append((".", FIXED))
        if wrong:
            parts += [(" It says ", FIXED), (f'"{wrong[0]}"', PICKED), (" where the document has ", FIXED)]
            parts += [(f'"{wrong[1]}"', PICKED), (".", FIXED)]
        if beside:
            parts += [(" It speaks of ", FIXED), (quoted(beside), PICKED), (" instead.", FIXED)]
        parts += [(" [RESULT] ", FIXED), (str(rounded(score, rng)), DIGIT)]
        values = {"instruction": question, "response": response, "ugc": reference}
        return Branch("rewards", rewards.WORDINGS[WORDING].render(values), tuple(parts), target=score, kind=kind)


SHARES = {"community": 0.4, "passage": 0.16, "answer": 0.14, "guide": 0.12, "blog": 0.1, "recipe": 0.05, "review": 0.03}
"""Of the posts read, how many are of each family."""


def _family(post: Post) -> str:
    if post.source.startswith("stackexchange"):
        return "community"
    return {"tutorial": "guide"}.get(post.kind, post.kind)


def _one(rng: random.Random, found: Sequence[str]) -> str:
    return rng.choice(found) if found else ""


def detail(text: str) -> float:
    """How much is in a text: its content words, the longer the better up to a point, and its numbers."""
    said = gist(text)
    return min(len(said), 120) / 120 + 0.3 * min(sum(w[0].isdigit() for w in said), 6) / 6


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


