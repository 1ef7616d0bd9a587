"""What the roles adapter learns from: a post, and what each role should say about it, in the pipeline's own prompts.

A `Reading` is one post with all that is asked of it. Its prompts begin alike (the wordings "post-first"), so a training
step reads the post once for a dozen answers. Targets are people's own where people have spoken (questions, votes,
judgments) and a rule's elsewhere (`grading`). A rule's score is rounded at random to one of its two neighbours, so that
the mean of several votes comes close to it.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pugc_bundled.roles import corpus, phrases
from pugc_bundled.roles.corpus import Judgment, Post, begun
from pugc_bundled.roles.grading import Overlap, compare, gist, quoted, quotes, rounded
from pugc_bundled.roles.material import DAMAGE, Material, Sampled, changed
from pugc_bundled.tiny.phrases import WORTH
from pugc_bundled.tiny.text import Salience
from pugc_core.prompts import instructions, quality, relevance, rewards
from pugc_core.prompts.base import Message

WORDING = "post-first"
TEXT, QUOTED, DECIDED, VERDICT, QUESTION = 1.0, 2.0, 6.0, 10.0, 2.0
"""Weights of the loss: running text, a phrase to copy, a word or digit that decides, True or False, a question's words.
Whatever can stand at one place weighs the same there; else the heavier alternative would come too often."""
CHECKED = 2
"""Phrases of the post that one vote looks up in the response: few and long, since what follows a phrase's first word is
copied, and what is copied stands in the post."""
VOTES = 4
"""Responses to a post that are voted on in one reading."""
DAMAGED, PLAIN = 0.5, 0.18
"""Shares of readings whose post is damaged, or sound but short like those. Only their quality is asked for."""
HARD = {"mixed": 4.0, "reordered": 4.0, "cut": 2.0, "vague": 1.5}
"""How often damage of a kind comes, against 1 for a kind that shows at once."""
OWN = ("base", "base_near", "base_mixed")
"""Kinds of responses that a policy gives: the base's, to the post's question or another, some with sentences of the
post among its own."""
JUDGED = 0.05
"""Share of readings that are a judgment of GPT-4."""
THIN, RICH = 0.2, 0.45
"""Ranks of a post among its kind, below which it earns a 3 or a 4. Most readings are of a post's beginning, which ranks
below the whole post: of all, about a quarter earns a 3 and a third a 5."""
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


LENGTHS = (70, 110, 160, 220, 300, corpus.LONGEST)


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
        own: float = 0.0,
    ) -> None:
        """`own` is the share of readings with nothing but votes on the base's own answers (the second course)."""
        self.rng = rng
        self.own = own
        self.salience = salience
        self.sampled = sampled or Sampled()
        self.judgments = list(judgments)
        self.posts = list(posts)
        self.material = Material(posts, salience, rng, self.sampled, bank)
        self._answered = [p for p in posts if p.question and p.key in self.sampled.answers]
        if own and not self._answered:
            raise ValueError("the base has answered no question of these posts: run `sample` on the same data first")
        self._by_kind: dict[str, list[Post]] = defaultdict(list)
        for post in posts:
            self._by_kind[_family(post)].append(post)
        self._detail = {kind: sorted(detail(p.text) for p in some) for kind, some in self._by_kind.items()}

    def readings(self) -> Iterator[Reading]:
        """Without end: families of posts in fixed shares, damaged ones and GPT-4's judgments among them."""
        while True:
            if self.own and self.rng.random() < self.own:
                yield self.answered(self.shortened(self.rng.choice(self._answered)))
                continue
            draw = self.rng.random()
            if self.judgments and draw < JUDGED:
                yield self.judged(self.rng.choice(self.judgments))
            elif draw < JUDGED + DAMAGED:
                kind = self.rng.choices(DAMAGE, [HARD.get(kind, 1.0) for kind in DAMAGE])[0]
                post = self.shortened(self.pick(), LENGTHS[:3])
                yield Reading(post, [self.damaged(post, kind)])
            elif draw < JUDGED + DAMAGED + PLAIN:
                post = self.shortened(self.pick(), LENGTHS[:3])
                yield Reading(post, [self.quality(post)])
            else:
                yield self.sound(self.shortened(self.pick()))

    def pick(self) -> Post:
        """A post, more often of a community than its share, and mostly one whose question the base has answered."""
        families = [name for name in SHARES if self._by_kind[name]]
        pool = self._by_kind[self.rng.choices(families, [SHARES[name] for name in families])[0]]
        for _ in range(8):
            post = self.rng.choice(pool)
            if post.key in self.sampled.answers:
                break
        return post

    def shortened(self, post: Post, lengths: Sequence[int] = LENGTHS) -> Post:
        """The post as it is, or its beginning of one of the `lengths` in words."""
        words = self.rng.choice(lengths)
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
            response, kind = self.material.response(post, question)
            reading.branches.append(self.vote(post, question, response, kind))
            if kind not in ("padded", "contradicted") and self.rng.random() < 0.12:
                reading.branches.append(
                    self.vote(post, question, self.material.padded(response), "padded", graded=response)
                )
        return reading

    def answered(self, post: Post) -> Reading:
        """Votes on what the base says."""
        reading = Reading(post)
        for _ in range(2 * VOTES):
            response, kind = self.material.response(post, post.question, OWN)
            reading.branches.append(self.vote(post, post.question, response, kind))
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
        if (
            instructions.refers_to_context(question)
            or instructions.refuses(question)
            or not gist(question) & gist(post.text)
        ):
            return None
        asked = question[:1].upper() + question[1:]
        messages = instructions.WORDINGS[WORDING].render(
            {"example": self.rng.choice(instructions.EXAMPLES), "ugc": post.text}
        )
        return Branch(
            "instructions", messages, ((asked, QUESTION),), kind="own" if question == post.question else "shaped"
        )

    def relevance(self, post: Post, question: str) -> Iterator[Branch]:
        """The post's own question, and another's that is near to it."""
        if other := self.material.near.near(post, question, self.rng):
            yield self.verdict(post, question, True)
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
        score = 3 if worth < THIN else 4 if worth < RICH else 5
        named = self.named(post.text, {3: 1, 4: 2, 5: 3}[score])
        form = self.rng.choice(phrases.SOUND[score])
        return self._scored(post.text, form, quoted(named), score, "sound")

    def named(self, text: str, count: int) -> list[str]:
        """Some of the words that tell what a text is about."""
        words = self.salience(text, 6)
        return self.rng.sample(words, min(count, len(words))) or ["it"]

    def damaged(self, post: Post, kind: str) -> Branch:
        text = self.material.damage(kind, post)
        score, forms = phrases.BROKEN[kind]
        named = self.named(text, 2)
        return self._scored(text, self.rng.choice(forms), quoted(named), score, kind)

    def _scored(self, text: str, form: str, named: str, score: int, kind: str) -> Branch:
        messages = quality.WORDINGS[WORDING].render({"ugc": text})
        reason = form.replace("{words}", named)
        parts = ((WORTH[score], DECIDED), (f": {reason}.\nScore: {score}", TEXT))
        return Branch("quality", messages, parts, target=score, kind=kind)

    def vote(self, post: Post, question: str, response: str, kind: str, graded: str = "") -> Branch:
        """The vote on a response; a padded one earns what `graded`, the one without the padding, does."""
        found = compare(graded or response, post.text, question)
        score = found.score
        wrong = changed(response, post.text) if kind == "contradicted" else None
        if wrong:
            score = max(1.0, score - 1.5)
        return self._voted(post.text, question, response, found, score, kind, wrong)

    def judged(self, judgment: Judgment) -> Reading:
        """GPT-4's score of a response; the feedback quotes by rule."""
        reference, response = begun(judgment.reference, 260), begun(judgment.response, 260)
        post = Post(reference, judgment.source, "judged", judgment.instruction, question=judgment.instruction)
        found = compare(response, reference, judgment.instruction)
        question = begun(judgment.instruction, 120)
        branch = self._voted(reference, question, response, found, judgment.score, "judged", None)
        return Reading(post, [branch])

    def _voted(
        self,
        reference: str,
        question: str,
        response: str,
        found: Overlap,
        score: float,
        kind: str,
        wrong: tuple[str, str] | None,
    ) -> Branch:
        rng, weight = self.rng, self.salience.weight
        wanted = sum(rng.random() < (score - 1) / 4 for _ in range(CHECKED))
        left = found.post - found.shared
        covered = quotes(reference, found.shared, left, wanted, rng, weight)
        missing = quotes(reference, left, found.shared, CHECKED - len(covered), rng, weight)
        more = found.shared - gist(" ".join(covered))
        covered += quotes(reference, more, left, CHECKED - len(covered) - len(missing), rng, weight)
        checked = [(phrase, " covered") for phrase in covered] + [(phrase, " missing") for phrase in missing]
        rng.shuffle(checked)
        parts: list[Part] = []
        for place, (phrase, verdict) in enumerate(checked):
            before = "Of the document, " if not place else " and " if place == len(checked) - 1 else ", "
            parts += [(f'{before}"{phrase}" is', QUOTED), (verdict, DECIDED)]
        parts.append((". " if parts else "Nothing to compare. ", TEXT))
        if wrong:
            parts.append((f'It says "{wrong[0]}" where the document has "{wrong[1]}". ', TEXT))
        parts += [("[RESULT] ", TEXT), (str(rounded(score, rng)), DECIDED)]
        values = {"instruction": question, "response": response, "ugc": reference}
        return Branch("rewards", rewards.WORDINGS[WORDING].render(values), tuple(parts), target=score, kind=kind)


SHARES = {"community": 0.4, "passage": 0.16, "answer": 0.14, "guide": 0.12, "blog": 0.1, "recipe": 0.05, "review": 0.03}
"""Of the posts read, how many are of each family."""


def _family(post: Post) -> str:
    if post.source.startswith("stackexchange"):
        return "community"
    return {"tutorial": "guide"}.get(post.kind, post.kind)


def detail(text: str) -> float:
    """How much is in a text: its content words, the longer the better up to a point, and its numbers."""
    said = gist(text)
    return min(len(said), 120) / 120 + 0.3 * min(sum(w[0].isdigit() for w in said), 6) / 6
