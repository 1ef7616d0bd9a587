"""What the bundled model can do on documents that it never saw: `python -m pugc_bundled.tiny.measure --data DIR`.

Asks what the pipeline asks: the prompts, the sampling and the engines are those of the `tiny` recipe. Prints a table of
figures with 95% intervals, then samples as they come, none picked. Without `--data` the posts of the bundled sample
are asked about; they too were never trained on, but they are few.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pugc_bundled.tiny import corpus
from pugc_bundled.tiny.corpus import Document
from pugc_bundled.tiny.tasks import Sample, Tasks
from pugc_bundled.tiny.text import Salience, content, overlap, sentences
from pugc_core import intervals, recipe
from pugc_core.engines import open_engine
from pugc_core.engines.base import Engine, Generation, Request, Sampling
from pugc_core.intervals import Estimate
from pugc_core.models.provided import TINY
from pugc_core.models.spec import ModelSpec
from pugc_core.prompts import instructions, quality, relevance, responses, rewards
from pugc_core.prompts.base import Message

SETTINGS = recipe.load("tiny")
VOTES = SETTINGS.rewards.n
LENGTH = 0.8  # of the lengths in training, see `Tasks.words`


class Figure(NamedTuple):
    """A row of the table."""

    role: str
    measure: str
    estimate: Estimate
    goal: str = ""

    def __str__(self) -> str:
        return f"| {self.role} | {self.measure} | {self.estimate} | {self.estimate.n} | {self.goal} |"


@dataclass
class Asker:
    """An engine, and what has gone through it."""

    engine: Engine
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __call__(self, prompts: Sequence[tuple[Message, ...]], sampling: Sampling, draws: int = 1) -> list[list[str]]:
        """The answers to each prompt, in order; a prompt that does not fit has none."""
        asked = [Request("measured", prompt, sampling, tuple(range(draws))) for prompt in prompts]
        texts: dict[bytes, str] = {}
        first = {request.key(0) for request in asked}  # the draws of one request share its prompt
        began = time.monotonic()
        for answer in self.engine.generate(iter(asked)):
            if isinstance(answer, Generation):
                texts[answer.key] = answer.text
                self.completion_tokens += answer.completion_tokens
                self.prompt_tokens += answer.prompt_tokens if answer.key in first else 0
        self.seconds += time.monotonic() - began
        return [[texts[key] for d in r.draws if (key := r.key(d)) in texts] for r in asked]


def auc(pairs: Sequence[tuple[bool, float]]) -> float:
    """The chance that a sound one scores above a damaged one, ties counted half (Mann and Whitney)."""
    good = [score for sound, score in pairs if sound]
    bad = [score for sound, score in pairs if not sound]
    if not good or not bad:
        return 0.5
    return statistics.fmean((g > b) + 0.5 * (g == b) for g in good for b in bad)


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's r; 0 when either side does not vary."""
    ours, theirs = zip(*pairs, strict=True)
    return statistics.correlation(ours, theirs) if len(set(ours)) > 1 and len(set(theirs)) > 1 else 0.0


def well_formed(question: str) -> bool:
    """Whether it is one sentence, begun and ended as a sentence is, that leans on no context."""
    ends = question.endswith(("?", ".", "!"))
    one = question[:1].isupper() and len(sentences(question)) == 1
    return ends and one and not instructions.refers_to_context(question)


def measure_relevance(ask: Asker, tasks: Tasks, count: int) -> Iterator[Figure]:
    samples = _fresh(tasks.relevance, tasks, count)
    answers = ask([s.turns[0].messages for s in samples], SETTINGS.relevance.sampling)
    verdicts = [relevance.parse(a[0]) if a else None for a in answers]
    right = [(s.kind, verdict == bool(s.target)) for s, verdict in zip(samples, verdicts, strict=True)]
    role = "relevance"
    yield Figure(role, "accuracy of the constrained True or False", intervals.share([r for _, r in right]), "≥ 0.85")
    for kind, name in (("own", "questions that people asked"), ("stock", "stock questions")):
        if some := [r for k, r in right if k == kind]:
            yield Figure(role, f"the same, {name}", intervals.share(some))


def measure_rewards(ask: Asker, tasks: Tasks, count: int) -> Iterator[Figure]:
    """The judge with the reference, with none, and with that of another post; the truth is always the overlap of the
    response with its own reference."""
    cases = list(_cases(tasks, count))
    role = "reward judge"
    shown: dict[str, Callable[[int], str]] = {
        "with the reference": lambda i: cases[i][2],
        "without a reference": lambda i: "",
        "with the reference of another post": lambda i: cases[(i + 1) % count][2],
    }
    goals = ("≥ 0.7", "clearly below", "chance")
    for (name, reference), goal in zip(shown.items(), goals, strict=True):
        prompts = [
            rewards.WORDINGS["short"].render({"instruction": q, "response": r, "ugc": reference(i)})
            for i, (q, r, _, _) in enumerate(cases)
        ]
        votes = [[rewards.parse(a) for a in draws] for draws in ask(prompts, SETTINGS.rewards.sampling, VOTES)]
        valid = [[v for v in some if v is not None] for some in votes]
        pairs = [(statistics.fmean(v), truth) for v, (*_, truth) in zip(valid, cases, strict=True) if v]
        label = f"correlation of {VOTES} votes' mean with the overlap (F1), {name}"
        yield Figure(role, label, intervals.bootstrap(pairs, correlation), goal)
        if name == "with the reference":
            parsed = [v is not None for some in votes for v in some]
            yield Figure(role, "free answers that parse at T = 1.0, top-p 0.9", intervals.share(parsed), "≥ 0.98")
            hot = SETTINGS.rewards.sampling.model_copy(update={"temperature": 1.0, "top_p": 1.0})
            free = [rewards.parse(a) is not None for draws in ask(prompts, hot, 2) for a in draws]
            yield Figure(role, "the same, top-p 1", intervals.share(free))


def _cases(tasks: Tasks, count: int) -> Iterator[tuple[str, str, str, float]]:
    """Question, response, reference as shown, and their overlap."""
    made = 0
    while made < count:
        sample = tasks.of("rewards", tasks.words(LENGTH))
        text = sample.turns[0].messages[-1].content
        head, _, rest = text.partition("###The instruction to evaluate:\n")
        question, _, rest = rest.partition("\n###Response to evaluate:\n")
        response, _, rest = rest.partition("\n###Reference Document:\n")
        reference = rest.rpartition("\n###Score Rubrics:")[0]
        if head and response and reference:
            made += 1
            yield question, response, reference, overlap(response, reference)


def measure_instructions(ask: Asker, tasks: Tasks, count: int) -> Iterator[Figure]:
    samples = _fresh(tasks.instructions, tasks, count)
    answers = ask([s.turns[0].messages for s in samples], SETTINGS.instructions.sampling)
    questions = [instructions.parse(a[0]) if a else "" for a in answers]
    posts = [s.turns[0].messages[-1].content.partition("<context start>")[2] for s in samples]
    formed = [well_formed(q) for q in questions]
    named = [bool(set(content(q)) & set(content(post))) for q, post in zip(questions, posts, strict=True)]
    role = "instructor"
    both = [f and n for f, n in zip(formed, named, strict=True)]
    yield Figure(role, "one well-formed sentence that names something of the post", intervals.share(both), "≥ 0.9")
    yield Figure(role, "of these: well-formed", intervals.share(formed))
    yield Figure(role, "of these: names something of the post", intervals.share(named))


def measure_quality(ask: Asker, tasks: Tasks, count: int) -> Iterator[Figure]:
    samples = _fresh(tasks.quality, tasks, count)
    answers = ask([s.turns[0].messages for s in samples], SETTINGS.quality.sampling)
    scores = [quality.parse(a[0]) if a else None for a in answers]
    scored = [(s.kind, float(v)) for s, v in zip(samples, scores, strict=True) if v is not None]
    role = "quality judge"
    every = [(kind == "real", v) for kind, v in scored]
    yield Figure(role, "AUC, sound posts against damaged ones", intervals.bootstrap(every, auc), "≥ 0.85")
    for damage in sorted({kind for kind, _ in scored} - {"real"}):
        some = [(kind == "real", v) for kind, v in scored if kind in ("real", damage)]
        yield Figure(role, f"the same, damaged: {damage}", intervals.bootstrap(some, auc))
    yield Figure(role, "answers that parse", intervals.share([v is not None for v in scores]))


def _fresh(make: Callable[[int], Sample | None], tasks: Tasks, count: int) -> list[Sample]:
    made: list[Sample] = []
    while len(made) < count:
        if sample := make(tasks.words(LENGTH)):
            made.append(sample)
    return made


MEASURES = (measure_relevance, measure_rewards, measure_instructions, measure_quality)


def examples(ask: Asker, tasks: Tasks, count: int = 10) -> Iterator[str]:
    """The policy's answers to questions of the test side, as they come."""
    asked = {s.turns[0].messages: None for s in _fresh(tasks.responses, tasks, 4 * count)}  # each question once
    questions = list(asked)[:count]
    for prompt, answer in zip(questions, ask(questions, SETTINGS.responses.sampling), strict=True):
        said = " ".join(responses.parse(answer[0]).split()) if answer else "(prompt too long)"
        yield f"> {' '.join(prompt[-1].content.split())}\n>\n> *{said}*"


def speed(spec: ModelSpec, prompts: Sequence[tuple[Message, ...]], draws: int) -> tuple[str, float, float]:
    """Name of the engine, prompt and completion tokens per second, all in one go, after a first request to warm up."""
    engine = open_engine(spec)
    try:
        Asker(engine)(prompts[:1], SETTINGS.rewards.sampling)
        ask = Asker(engine)
        ask(prompts[1:], SETTINGS.rewards.sampling, draws)
    finally:
        engine.close()
    return engine.name, ask.prompt_tokens / ask.seconds, ask.completion_tokens / ask.seconds


def split(data: Path | None) -> tuple[list[Document], list[Document]]:
    """Documents to count words in, and documents to ask about."""
    sides = corpus.load(data)
    if data is None:
        return [*sides.train, *sides.test], [*sides.train, *sides.test]
    return sides.train, sides.test


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the bundled model on documents it never saw.")
    parser.add_argument("--data", type=Path, help="folder of the open data; without it, the bundled sample posts")
    parser.add_argument("--model", default=TINY, help="folder of the model (default: the bundled one)")
    parser.add_argument("--count", type=int, default=300, help="samples per role (default 300)")
    options = parser.parse_args(arguments)
    train, test = split(options.data)
    tasks = Tasks(test, Salience(d.text for d in train), random.Random(1))
    spec = ModelSpec(id=options.model)
    print(f"{len(test)} documents that were not trained on; {options.count} samples per role\n")
    print("| role | measure | value (95% interval) | samples | goal |\n|---|---|---|---|---|")
    engine = open_engine(spec)
    try:
        ask = Asker(engine)
        for measure in MEASURES:
            for figure in measure(ask, tasks, options.count):
                print(figure, flush=True)
        print("\nTen answers of the policy, unpicked:\n")
        print("\n\n".join(examples(ask, tasks)))
    finally:
        engine.close()
    print("\n| engine | prompt tokens/s | completion tokens/s |\n|---|---|---|")
    prompts = [s.turns[0].messages for s in _fresh(tasks.rewards, tasks, 1 + min(options.count, 64))]
    for name in ("vllm", "transformers"):
        engine_name, read, written = speed(spec.model_copy(update={"engine": name}), prompts, VOTES)
        print(f"| {engine_name} | {read:,.0f} | {written:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
