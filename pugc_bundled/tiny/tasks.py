"""Training samples for every role, made by rule from real text and rendered with the pipeline's own prompts.

What is asked in training is to the letter what the pipeline asks later: the short wordings of `pugc_core.prompts`.
Comparing two texts is the hard part for so small a model, so the judge is taught to name key words of the reference and
to say of each whether the response has it, before the score; sampled votes then look at different words and their
mean says more than one vote.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from pugc_bundled.tiny import phrases
from pugc_bundled.tiny.corpus import Document
from pugc_bundled.tiny.text import (
    Salience,
    content,
    cut_off,
    drop_words,
    excerpt,
    listed,
    overlap,
    sentences,
    shuffle_sentences,
    shuffle_words,
)
from pugc_core.prompts import instructions, quality, relevance, responses, rewards
from pugc_core.prompts.base import Message

LEVELS = (0.08, 0.25, 0.5, 0.8)  # overlap F1 from which a response earns 2, 3, 4, 5
LONG_ANSWER = 90
SHORT_POST = 40  # words below which a sound post is only fair
DAMAGE = ("shuffled", "advert", "advert", "repeated", "vague", "cut", "cut", "reordered", "reordered", "mixed")
KINDS = ("copy", "part", "part", "mixed", "mixed", "thin", "thin", "thin", "foreign", "rest", "rest", "cut", "salad")

NO_NOUN = ("ly", "ing", "ed", "ous", "ful", "ive", "able", "'s")  # few words that end so name a thing

# Weight of the loss: on words that always stand there, on running text, on a word picked from the prompt, and on a word
# that decides.
FIXED, TEXT, PICKED, DECIDED = 0.1, 0.4, 1.5, 5.0
VERDICT, TRUTH = 8.0, 12.0  # of the judges' one word, and of True or False, which has to outweigh all other text
Part = tuple[str, float]


@dataclass(frozen=True)
class Course:
    """What a training dwells on.

    `mixture` is each task's share of the samples that are not general text; the share of general text goes from
    `plain[0]` to `plain[1]` by the middle, and `simple` of it is written simply. `begins` is how hard the first samples
    are, 0 to 1. No token of an answer or of general text weighs less than `floor`.
    """

    mixture: Mapping[str, float]
    plain: tuple[float, float]
    simple: float = 0.0
    begins: float = 0.0
    floor: float = 0.0


# Comparing texts has to be learnt first and takes most of what so small a model can learn at a time.
COMPARE = Course(
    mixture={"quality": 0.13, "instructions": 0.16, "relevance": 0.17, "responses": 0.2, "rewards": 0.34},
    plain=(0.45, 0.12),
)
# Then it learns to speak, and keeps what it can by a little of everything.
SPEAK = Course(
    mixture={"quality": 0.09, "instructions": 0.1, "relevance": 0.1, "responses": 0.55, "rewards": 0.16},
    plain=(0.45, 0.45),
    simple=0.3,
    begins=1.0,
    floor=0.4,
)
CHECKED = 3  # words that one vote looks up
LONG_FROM, LONG_SHARE = 0.45, 0.08


@dataclass(frozen=True)
class Turn:
    """One question to the model and the answer that it should give, in parts with a weight each."""

    messages: tuple[Message, ...]
    parts: tuple[Part, ...]

    @property
    def answer(self) -> str:
        return "".join(text for text, _ in self.parts)


@dataclass(frozen=True)
class Sample:
    """What is learnt from in one piece: turns of one task, or plain text. `target` is the score or truth, if any;
    `kind` how the text at issue was made, where a rule made it."""

    task: str
    turns: tuple[Turn, ...] = ()
    text: str = ""
    target: float | None = None
    kind: str = ""


class Tasks:
    """Makes samples from one side of the split. The same documents and generator give the same samples."""

    def __init__(
        self, documents: Sequence[Document], salience: Salience, rng: random.Random, course: Course = COMPARE
    ) -> None:
        self.rng = rng
        self.course = course
        self.salient = salience
        self.repeats = 0.0  # share of plain texts that come twice in a row
        self.all = [d for d in documents if len(d.text.split()) >= 12]
        self.real = [d for d in self.all if d.kind in ("post", "passage", "answer")]
        self.posts = [d for d in self.all if d.kind in ("post", "plain", "simple")]
        self.simple = [d for d in self.all if d.kind == "simple"]
        self.asked = [d for d in self.real if d.question]
        self.answered = [d for d in documents if d.answer and len(d.answer.split()) <= LONG_ANSWER]
        self.makers: dict[str, Callable[[int], Sample | None]] = {
            "plain": self.plain,
            "quality": self.quality,
            "instructions": self.instructions,
            "relevance": self.relevance,
            "responses": self.responses,
            "rewards": self.rewards,
        }

    def sample(self, progress: float) -> Sample:
        """A sample of a task drawn from the mixture, as hard as the `progress` of the training (0 to 1) allows."""
        hardness = self.hardness(progress)
        self.repeats = max(0.0, 0.7 - 2 * hardness)  # copying comes before comparing
        first, last = self.course.plain
        plain = first + (last - first) * min(1.0, 2 * hardness)
        names = ["plain", *self.course.mixture]
        shares = [plain, *(share * (1 - plain) for share in self.course.mixture.values())]
        return self.of(self.rng.choices(names, shares)[0], self.words(hardness))

    def hardness(self, progress: float) -> float:
        """How hard samples may be, 0 to 1."""
        return self.course.begins + (1 - self.course.begins) * progress

    def words(self, hardness: float) -> int:
        """The length of the next text: short ones alone for the first fifth, then longer by and by, a few very long."""
        if hardness > LONG_FROM and self.rng.random() < LONG_SHARE:
            return self.rng.randint(180, 550)
        return int(self.rng.uniform(15, 40 + 150 * max(0.0, min(1.0, (hardness - 0.2) / 0.6))))

    def of(self, task: str, words: int) -> Sample:
        """A sample of this task; documents that do not serve are passed over."""
        while True:
            if made := self.makers[task](words):
                return made

    def _text(self, document: Document, words: int) -> str:
        return excerpt(document.text, max(words, 16)) if len(document.text.split()) > words else document.text

    def _shown(self, document: Document, text: str) -> str:
        """The text as the pipeline shows a post: under its title and a blank line, where it has one. Texts without a
        title are given one now and then, so that a title says nothing about the rest."""
        title = document.title if self.rng.random() < 0.6 else ""
        if not document.title and self.rng.random() < 0.35 and len(words := self.salient(text, 4)) > 1:
            a, b = self.rng.sample(words, 2)
            title = self.rng.choice(phrases.TITLES).format(a=a, b=b)
        return f"{title[:1].upper()}{title[1:]}\n\n{text}" if title and text else text

    def _other(self, document: Document) -> Document:
        while True:
            other = self.rng.choice(self.real)
            if other.key != document.key:
                return other

    def _question(self, document: Document, text: str, own: float = 0.6) -> tuple[Part, ...]:
        """The document's own question (where it has one, in a share `own` of the cases), or one made from key words of
        the text; empty when there are none."""
        if document.question and self.rng.random() < own:
            return ((document.question, TEXT),)
        words = [w for w in self.salient(text, 12) if not w.endswith(NO_NOUN)][:6]
        if len(words) < 2:
            return ((document.question, TEXT),) if document.question else ()
        a, b = self.rng.sample(words[: self.rng.choice((3, 6))] if len(words) > 2 else words, 2)
        form = self.rng.choice(phrases.ASK_ONE if self.rng.random() < 0.3 else phrases.ASK_TWO)
        return filled(form, PICKED, a=a, b=b)

    def plain(self, words: int) -> Sample | None:
        simple = self.simple and self.course.simple and self.rng.random() < self.course.simple
        parts = sentences(self.rng.choice(self.simple if simple else self.all).text)
        start = self.rng.randrange(len(parts))
        text = excerpt(" ".join(parts[start:]), 2 * words)
        if self.rng.random() < self.repeats:
            text = f"{excerpt(text, words)}\n{excerpt(text, words)}".strip()
        return Sample("plain", text=text) if text else None

    def instructions(self, words: int) -> Sample | None:
        """A question that the text answers, and further ones about it, for the price of reading the text once."""
        document = self.rng.choice(self.real)
        text = self._text(document, words)
        example = self.rng.choice(instructions.EXAMPLES)
        messages = instructions.WORDINGS["short"].render({"example": example, "ugc": self._shown(document, text)})
        turns: list[Turn] = []
        for _ in range(self.rng.choice((1, 3))):
            question = self._question(document, text, own=0.3)
            if not text or not question or instructions.refers_to_context(joined(question)):
                return None
            if joined(question) not in (turn.answer for turn in turns):
                turns.append(Turn(messages, question))
            messages = (Message("user", "Another one."),)
        return Sample("instructions", tuple(turns))

    def relevance(self, words: int) -> Sample | None:
        """Several questions on one text: the first as the pipeline asks it, the others as further turns, which makes
        several verdicts for the price of reading the text once."""
        document = self.rng.choice(self.asked if self.rng.random() < 0.7 else self.real)
        text = self._text(document, words)
        shown = self._shown(document, text)
        turns: list[Turn] = []
        asked: set[str] = set()
        kind = ""
        for _ in range(self.rng.choice((1, 3, 5))):
            truth = self.rng.random() < 0.5
            source = document if truth else self._other(document)
            question = joined(self._question(source, text if truth else self._text(source, 100)))
            if not text or not question:
                return None
            messages = relevance.WORDINGS["short"].render({"ugc": shown, "instruction": question})
            if turns:
                ask = messages[-1].content
                messages = (Message("user", ask[ask.rindex("###Question") :]),)
            if question not in asked:
                turns.append(Turn(messages, ((str(truth), TRUTH),)))
            asked.add(question)
            kind = kind or ("own" if question == source.question else "stock")
        return Sample("relevance", tuple(turns), target=float(turns[0].answer == "True"), kind=kind)

    def responses(self, words: int) -> Sample | None:
        if self.rng.random() < 0.6 and self.answered:
            document = self.rng.choice(self.answered)
            question, answer = document.question, document.answer
            if document.kind == "passage" and len(answer.split()) < 6:
                return None
        else:
            document = self.rng.choice(self.real)
            answer = excerpt(document.text, min(max(words, 25), 70))
            question = joined(self._question(document, answer))
        if not question or not answer:
            return None
        prompt = responses.WORDINGS["default"].render({"instruction": question})
        return Sample("responses", (Turn(prompt, ((answer, TEXT),)),))

    def quality(self, words: int) -> Sample | None:
        document = self.rng.choice(self.posts if self.rng.random() < 0.6 else self.real)
        text = self._text(document, max(words, 30))
        if len(text.split()) < 20:
            return None
        kind = "real" if self.rng.random() < 0.5 else self.rng.choice(DAMAGE)
        if kind == "reordered" and len(sentences(text)) < 4:
            kind = "shuffled"
        reason: tuple[Part, ...]
        if kind == "real":
            score = 5 if detail(text) >= DETAILED else 3 if len(text.split()) < SHORT_POST else 4
            named = self.salient(text, 4)[: self.rng.choice((1, 2))] or ["it"]
            reason = filled(self.rng.choice(phrases.SOUND[score]), PICKED, words=listed(named))
        else:
            text = self._damage(kind, text, document)
            score, reasons = phrases.BROKEN[kind]
            reason = ((self.rng.choice(reasons), 2 * TEXT),)
        messages = quality.WORDINGS["short"].render({"ugc": self._shown(document, text)})
        parts = ((phrases.WORTH[score], VERDICT), (": ", FIXED), *reason, (f".\nScore: {score}", FIXED))
        return Sample("quality", (Turn(messages, parts),), target=score, kind=kind)

    def _damage(self, kind: str, text: str, document: Document) -> str:
        rng = self.rng
        if kind == "shuffled":
            return shuffle_words(text, rng)
        if kind == "cut":
            return cut_off(text, rng)
        if kind == "reordered":
            return shuffle_sentences(text, rng)
        if kind == "repeated":
            return " ".join([rng.choice(sentences(text))] * rng.randint(4, 8))
        if kind == "mixed":
            parts = sentences(text)[:4] + sentences(self._text(self._other(document), 80))[:4]
            rng.shuffle(parts)
            return " ".join(parts)
        topic = (self.salient(text, 3) or ["it"])[0]
        bank = phrases.VAGUE if kind == "vague" else phrases.ADVERT
        chosen = rng.sample(bank, rng.randint(4, 9))
        if rng.random() < 0.4:
            chosen.insert(rng.randrange(len(chosen)), rng.choice(sentences(text)))
        return " ".join(chosen).format_map(_Fill(t=topic, n=str(rng.randint(10, 90))))

    def rewards(self, words: int) -> Sample | None:
        """A vote as the pipeline asks for it, and in a further turn more words that are there or not."""
        document = self.rng.choice(self.real)
        reference = self._text(document, min(words, 400))
        if len(content(reference)) < 4 or not (question := joined(self._question(document, reference))):
            return None
        wanted = self.rng.randint(1, 5)
        for _ in range(12):
            response, kind = self._response(document, reference)
            score = judged(response, reference, kind not in ("cut", "salad"))
            if score == wanted:
                break
        values = {"instruction": question, "response": response, "ugc": self._shown(document, reference)}
        salient = self.salient(reference, 16)
        self.rng.shuffle(salient)
        verdict, reasons = phrases.VERDICT[score]
        feedback = (
            ("Of the reference, ", FIXED),
            *_checks(salient[:CHECKED], response),
            (". ", FIXED),
            (verdict, VERDICT),
            (f": {self.rng.choice(reasons)}. [RESULT] {score}", FIXED),
        )
        turns = [Turn(rewards.WORDINGS["short"].render(values), feedback)]
        if more := salient[CHECKED:]:
            turns.append(Turn((Message("user", "And further?"),), (*_checks(more[:8], response), (".", FIXED))))
        return Sample("rewards", tuple(turns), target=score, kind=kind)

    def _response(self, document: Document, reference: str) -> tuple[str, str]:
        """A response made by rule, and by which; after "cut" and "salad" it is not whole."""
        rng, parts = self.rng, sentences(reference)
        foreign = sentences(self._text(self._other(document), 80)) or ["I do not know."]
        kind = rng.choice(KINDS)
        some = [p for p in parts if rng.random() < rng.uniform(0.2, 1.0)] or parts[:1]
        if kind == "copy":
            return reference, kind
        if kind == "part":
            return " ".join(some), kind
        if kind == "mixed":
            return " ".join([*some, *foreign[: rng.randint(1, 3)]]), kind
        if kind == "thin":
            return drop_words(" ".join(some), rng.uniform(0.05, 0.6), rng) or parts[0], kind
        if kind == "foreign":
            return document.answer if document.answer and rng.random() < 0.5 else " ".join(foreign[:4]), kind
        if kind == "rest":
            later = sentences(document.text[len(reference) :])[: rng.randint(1, 4)]
            return " ".join(later) or foreign[0], kind
        text = " ".join([*some, *foreign[:1]])
        return (cut_off(text, rng) if kind == "cut" else shuffle_words(text, rng)), kind


def filled(form: str, weight: float, **words: str) -> tuple[Part, ...]:
    """The form with its slots filled: the form's own words weigh little more than nothing, those filled in `weight`."""
    parts: list[Part] = []
    for fixed, name, _, _ in Formatter().parse(form):
        parts.append((fixed, TEXT))
        if name:
            parts.append((words[name], weight))
    return tuple(part for part in parts if part[0])


def joined(parts: Sequence[Part]) -> str:
    return "".join(text for text, _ in parts)


def _checks(words: Sequence[str], response: str) -> tuple[Part, ...]:
    """`x is covered, y is missing and z is covered`: whether the response has each of the words."""
    has = set(content(response))
    parts: list[Part] = []
    for place, word in enumerate(words):
        if place:
            parts.append((" and " if place == len(words) - 1 else ", ", FIXED))
        parts += [(word, PICKED), (" is", FIXED), (" covered" if word.lower() in has else " missing", DECIDED)]
    return tuple(parts)


class _Fill(dict[str, str]):
    """Slot values for text that may hold braces of its own."""

    def __missing__(self, name: str) -> str:
        return name


DETAILED = 0.5


def detail(text: str) -> float:
    """How much is in a text, 0 to 1: its length, numbers and share of content words. A stand-in for quality."""
    words = text.split()
    numbers = sum(any(c.isdigit() for c in w) for w in words)
    return min(1.0, len(words) / 200 + min(numbers, 5) / 20 + len(set(content(text))) / (3 * len(words)))


def judged(response: str, reference: str, whole: bool) -> int:
    """The score by rule: the share of the reference's content, one less where the response is broken."""
    score = 1 + sum(overlap(response, reference) >= level for level in LEVELS)
    return score if whole else max(1, score - 1)
