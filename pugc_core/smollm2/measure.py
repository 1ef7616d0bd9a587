"""What the roles can do on posts that they never saw: `python -m pugc_core.smollm2.measure --data DIR`.

Asks what the pipeline asks: prompts, sampling and engine are those of the recipe `laptop`. Prints a table of figures with
95% intervals and goals, for the sources that were never seen and for unseen documents of the others, then questions,
answers and votes as they come, none picked. Without `--data` the bundled sample posts are asked about; they are few.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pugc_core import intervals, recipe
from pugc_core.engines import open_engine
from pugc_core.engines.base import Sampling
from pugc_core.intervals import Estimate
from pugc_core.measures import BANDS
from pugc_core.models import ModelSpec
from pugc_core.prompts import instructions, quality, relevance, responses, rewards
from pugc_core.prompts.base import load
from pugc_core.smollm2 import corpus, phrases
from pugc_core.smollm2.corpus import Post
from pugc_core.smollm2.grading import compare, gist
from pugc_core.smollm2.tasks import DAMAGE, Tasks
from pugc_core.tiny.measure import Asker, auc, correlation, well_formed
from pugc_core.tiny.text import Salience, overlap

SETTINGS = recipe.load("laptop")
LONGEST = 3000
"""Characters of a post that is asked about."""
WORDS = 80
"""From this many tokens on, one more sentence is no help: the longest response asked for here."""


class Figure(NamedTuple):
    """A row of the table."""

    role: str
    measure: str
    estimate: Estimate
    goal: str = ""

    def __str__(self) -> str:
        return f"| {self.role} | {self.measure} | {self.estimate} | {self.estimate.n} | {self.goal} |"


class Case(NamedTuple):
    """A response to a question about a post, and what it should earn by rule, 1 to 5."""

    question: str
    response: str
    post: str
    score: float


class Vote(NamedTuple):
    """What the judge said, and the score in it, if any."""

    said: str
    score: int | None


@dataclass
class Roles:
    """The judges and the instructor, and the policy, asked as the pipeline asks them."""

    roles: Asker
    policy: Callable[[Sequence[str], int], list[list[str]]]

    def votes(self, cases: Sequence[Case], shown: Sequence[str] | None = None, sampling: Sampling | None = None) -> list[list[Vote]]:
        """The votes on each case, with its own post as reference or the texts `shown`."""
        prompt = load(SETTINGS.rewards.prompt, rewards.WORDINGS, slots=rewards.SLOTS, markers=rewards.MARKERS)
        references = shown or [case.post for case in cases]
        asked = [
            prompt.render({"instruction": case.question, "response": case.response, "ugc": reference})
            for case, reference in zip(cases, references, strict=True)
        ]
        answers = self.roles(asked, sampling or SETTINGS.rewards.sampling, SETTINGS.rewards.n)
        return [[Vote(said, rewards.parse(said)) for said in draws] for draws in answers]


def mean(votes: Sequence[Vote]) -> float | None:
    """The mean of the votes that parse; None where none does."""
    valid = [vote.score for vote in votes if vote.score is not None]
    return statistics.fmean(valid) if valid else None


def _paired(cases: Sequence[Case], votes: Sequence[Sequence[Vote]], truth: Callable[[Case], float]) -> list[tuple[float, float]]:
    return [(m, truth(case)) for case, some in zip(cases, votes, strict=True) if (m := mean(some)) is not None]


def ruled(tasks: Tasks, posts: Sequence[Post], count: int) -> list[Case]:
    """Responses made by rule from unseen posts, graded by rule."""
    made: list[Case] = []
    while len(made) < count:
        post = tasks.shortened(tasks.rng.choice(posts))
        question = tasks.asked(post) or tasks.shaped(post)
        response, kind = tasks.response(post, question)
        if kind not in ("contradicted", "padded") and len(post.text) <= LONGEST:
            made.append(Case(question, response, post.text, compare(response, post.text, question).score))
    return made


def sampled(roles: Roles, posts: Sequence[Post], draws: int) -> list[Case]:
    """The policy's own answers to people's questions, `draws` of each, graded by rule."""
    answers = roles.policy([post.question for post in posts], draws)
    return [
        Case(post.question, said, post.text, compare(said, post.text, post.question).score)
        for post, some in zip(posts, answers, strict=True)
        for said in some
    ]


def measure_rules(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    role, cases = "reward judge", ruled(tasks, posts, count)
    others = [cases[(i + 1) % len(cases)].post for i in range(len(cases))]
    for name, shown, goal in (
        ("the reference", None, "≥ 0.80"),
        ("no reference", [""] * len(cases), "clearly lower"),
        ("another post's reference", others, "chance"),
    ):
        votes = roles.votes(cases, shown)
        pairs = _paired(cases, votes, lambda case: case.score)
        yield Figure(role, f"r with graded overlap, {name}", intervals.bootstrap(pairs, correlation), goal)
        if shown is None:
            yield from _said(role, cases, votes)
    padded = [case._replace(response=tasks.padded(case.response)) for case in cases[: count // 2]]
    first = [mean(v) for v in roles.votes(cases[: count // 2])]
    second = [mean(v) for v in roles.votes(padded)]
    moved = [b - a for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    yield Figure(role, "score moved by length alone (same content, padded), mean", intervals.bootstrap(moved, statistics.fmean), "≤ 0.2")


def _said(role: str, cases: Sequence[Case], votes: Sequence[Sequence[Vote]]) -> Iterator[Figure]:
    parsed = [vote.score is not None for some in votes for vote in some]
    yield Figure(role, "votes that parse, T = 1.0, posts up to 3,000 characters", intervals.share(parsed), "≥ 0.98")
    named: list[bool] = []
    for case, some in zip(cases, votes, strict=True):
        there = gist(case.post) | gist(case.response)
        named += [word in there for vote in some for word in sorted(gist(" ".join(vote.said.split('"')[1::2])))]
    yield Figure(role, "words its feedback quotes that stand in post or response", intervals.share(named), "≥ 0.9")


def measure_sampled(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    role, draws = "reward judge", SETTINGS.responses.k
    some = [p for p in posts if p.question]
    asked = [tasks.shortened(p) for p in tasks.rng.sample(some, min(len(some), max(2, count // draws)))]
    cases = sampled(roles, asked, draws)
    votes = roles.votes(cases)
    means = [mean(v) for v in votes]
    for name, truth in (
        ("graded overlap", lambda case: case.score),
        ("plain word overlap (F1)", lambda case: overlap(case.response, case.post)),
    ):
        yield Figure(role, f"r with {name}, on the policy's own answers", intervals.bootstrap(_paired(cases, votes, truth), correlation), "≥ 0.5")
    rewards_made = [m for m in means if m is not None]
    bands = Counter(sum(m >= low for low in BANDS) for m in rewards_made)
    fullest = bands.most_common(1)[0][0]
    yield Figure(role, "rewards in the fullest band of half a point", intervals.share([sum(m >= low for low in BANDS) == fullest for m in rewards_made]), "≤ 0.40")
    by_question: dict[str, list[float]] = {}
    for case, m in zip(cases, means, strict=True):
        if m is not None:
            by_question.setdefault(case.question, []).append(m)
    tied = [max(ms) - min(ms) < 1e-9 for ms in by_question.values() if len(ms) > 1]
    yield Figure(role, "questions all of whose responses are tied", intervals.share(tied), "≤ 0.15")


def measure_people(roles: Roles, data: Path) -> Iterator[Figure]:
    """Against people (LLMBar: which of two responses) and GPT-4 (scores of one response); both sources are unseen."""
    role = "reward judge"
    pairs = corpus.preferences(data)
    cases = [Case(p.instruction, said, p.reference, 0.0) for p in pairs for said in p.responses]
    with_reference = [mean(v) for v in roles.votes(cases)]
    without = [mean(v) for v in roles.votes(cases, [""] * len(cases))]
    by_rule = [compare(case.response, case.post, case.question).share for case in cases]
    plain = [overlap(case.response, case.post) for case in cases]

    def agreement(scores: Sequence[float | None]) -> list[float]:
        made = []
        for i, pair in enumerate(pairs):
            a, b = scores[2 * i], scores[2 * i + 1]
            if a is None or b is None or a == b:
                made.append(0.5)
            else:
                made.append(float((a > b) == (pair.label == "A")))
        return made

    ours, none, rule, words = agreement(with_reference), agreement(without), agreement(by_rule), agreement(plain)
    goal = "above the rule"
    yield Figure(role, "agreement with people, LLMBar, reference shown", intervals.bootstrap(ours, statistics.fmean), goal)
    yield Figure(role, "the same of the word-overlap rule (F1)", intervals.bootstrap(words, statistics.fmean))
    yield Figure(role, "the same of the graded overlap", intervals.bootstrap(rule, statistics.fmean))
    yield Figure(role, "judge minus word-overlap rule, paired", intervals.bootstrap([a - b for a, b in zip(ours, words, strict=True)], statistics.fmean), "> 0")
    yield Figure(role, "reference minus no reference, paired", intervals.bootstrap([a - b for a, b in zip(ours, none, strict=True)], statistics.fmean))
    scored = [j for j in corpus.judgments(data) if j.side == "unseen"]
    cases = [Case(j.instruction, j.response, j.reference, j.score) for j in scored]
    found = _paired(cases, roles.votes(cases), lambda case: case.score)
    yield Figure(role, "r with GPT-4's scores, reference shown", intervals.bootstrap(found, correlation))


def measure_instructions(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    chosen = [tasks.shortened(p) for p in tasks.rng.choices(posts, k=count)]
    questions = ask_questions(roles, tasks, chosen)
    good = []
    for post, question in zip(chosen, questions, strict=True):
        formed = well_formed(question) and not instructions.refuses(question)
        good.append(formed and bool(gist(question) & gist(post.text)))
    role = "instructor"
    yield Figure(role, "well-formed, on the post, not about the context", intervals.share(good), "≥ 0.95")
    openings = {tuple(q.lower().split()[:3]) for q in questions[:100]}
    yield Figure(role, "distinct first three words in 100", Estimate(len(openings), len(openings), len(openings), len(questions[:100])), "≥ 40")


def ask_questions(roles: Roles, tasks: Tasks, posts: Sequence[Post]) -> list[str]:
    """The instructor's question to each post."""
    prompt = load(SETTINGS.instructions.prompt, instructions.WORDINGS, slots=instructions.SLOTS)
    asked = [prompt.render({"example": tasks.rng.choice(instructions.EXAMPLES), "ugc": p.text}) for p in posts]
    return [instructions.parse(a[0]) if a else "" for a in roles.roles(asked, SETTINGS.instructions.sampling)]


def measure_relevance(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    """Own questions against those of the same site that are nearest, titles hidden."""
    prompt = load(SETTINGS.relevance.prompt, relevance.WORDINGS, slots=relevance.SLOTS)
    cases: list[tuple[str, str, bool]] = []
    some = [p for p in posts if p.question]
    while len(cases) < count:
        post = tasks.shortened(tasks.rng.choice(some))
        if other := tasks.near.near(post, post.question, tasks.rng):
            cases += [(post.text, post.question, True), (post.text, other.question, False)]
    asked = [prompt.render({"ugc": text, "instruction": question}) for text, question, _ in cases]
    answers = roles.roles(asked, SETTINGS.relevance.sampling)
    verdicts = [relevance.parse(a[0]) if a else None for a in answers]
    right = [v == truth for v, (_, _, truth) in zip(verdicts, cases, strict=True)]
    yield Figure("relevance", "accuracy, titles hidden, near questions", intervals.share(right), "≥ 0.85")
    for truth in (True, False):
        some_right = [r for r, case in zip(right, cases, strict=True) if case[2] == truth]
        yield Figure("relevance", f"the same where the truth is {truth}", intervals.share(some_right))


def measure_quality(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    prompt = load(SETTINGS.quality.prompt, quality.WORDINGS, slots=quality.SLOTS)
    sound = [tasks.shortened(p) for p in tasks.rng.choices(posts, k=count)]
    texts = [("sound", p.text) for p in sound]
    for kind in DAMAGE:
        for _ in range(max(2, count // 5)):
            texts.append((kind, tasks.damage(kind, tasks.shortened(tasks.rng.choice(posts)))))
    answers = roles.roles([prompt.render({"ugc": text}) for _, text in texts], SETTINGS.quality.sampling)
    scores = [(kind, quality.parse(a[0]) if a else None) for (kind, _), a in zip(texts, answers, strict=True)]
    for kind in DAMAGE:
        pairs = [(k == "sound", float(s)) for k, s in scores if s is not None and k in ("sound", kind)]
        yield Figure("quality", f"AUC, sound against {kind}", intervals.bootstrap(pairs, auc), "≥ 0.85")
    given = [s for k, s in scores if k == "sound" and s is not None]
    commonest = Counter(given).most_common(1)[0][0]
    yield Figure("quality", f"sound posts with the commonest score ({commonest})", intervals.share([s == commonest for s in given]), "≤ 0.50")
    yield Figure("quality", "answers that parse", intervals.share([s is not None for _, s in scores]))


def examples(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[str]:
    """Posts as they come: the question that the instructor asks, two answers, a vote on each."""
    chosen = [tasks.shortened(p) for p in tasks.rng.sample(list(posts), count)]
    questions = ask_questions(roles, tasks, chosen)
    answers = roles.policy(questions, 2)
    cases = [Case(q, said, p.text, 0.0) for p, q, some in zip(chosen, questions, answers, strict=True) for said in some]
    votes = iter(roles.votes(cases))
    for post, question, some in zip(chosen, questions, answers, strict=True):
        yield f"**Post** ({post.source}): {' '.join(post.text.split())[:300]} ...\n\n**Question:** {' '.join(question.split())}\n"
        for said in some:
            vote = next(votes)
            score = mean(vote)
            shown = "none parsed" if score is None else f"{score:.2f}"
            yield f"- *{' '.join(said.split())}* — **{shown}**; one vote: {' '.join(vote[0].said.split())}"
        yield ""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the roles on posts they never saw.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the open data")
    parser.add_argument("--roles", help="folder of another model for the roles (default: that of the recipe laptop)")
    parser.add_argument("--base", help="folder of another model for the policy (default: that of the recipe laptop)")
    parser.add_argument("--count", type=int, default=300, help="samples per figure (default 300)")
    parser.add_argument("--only", nargs="*", help="names of measures, of: " + ", ".join(MEASURES))
    parser.add_argument("--sides", nargs="*", default=["unseen", "test"], help="unseen (sources) and test (documents)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    every = corpus.posts(options.data)
    salience = Salience(p.text for p in corpus.of("train", every))
    specs = {
        "roles": SETTINGS.model("reward_judge").model_copy(update={"id": options.roles} if options.roles else {}),
        "policy": SETTINGS.model("policy").model_copy(update={"id": options.base} if options.base else {}),
    }
    print("| role | measure | value (95% interval) | samples | goal |\n|---|---|---|---|---|", flush=True)
    made: dict[str, list[Mapping[str, object]]] = {}
    answers = Policy(specs["policy"], options.json)
    engine = open_engine(specs["roles"])
    try:
        roles = Roles(Asker(engine), answers)
        for side in options.sides:
            posts = [p for p in corpus.of(side, every) if len(p.text) <= LONGEST]
            tasks = Tasks(posts, salience, random.Random(7), bank=phrases.TEST)
            print(f"| | **{'sources' if side == 'unseen' else 'documents'} never seen** ({len(posts)} posts) | | | |")
            for name, run in MEASURES.items():
                if options.only and name not in options.only:
                    continue
                for figure in run(roles, tasks, posts, options.count):
                    print(figure, flush=True)
                    made.setdefault(side, []).append(figure._asdict() | {"estimate": vars(figure.estimate)})
        if not options.only or "people" in options.only:
            for figure in measure_people(roles, options.data):
                print(figure, flush=True)
                made.setdefault("people", []).append(figure._asdict() | {"estimate": vars(figure.estimate)})
        if not options.only or "examples" in options.only:
            unseen = [p for p in corpus.of("unseen", every) if len(p.text) <= LONGEST]
            print("\nTwenty posts, unpicked:\n")
            print("\n".join(examples(roles, Tasks(unseen, salience, random.Random(8)), unseen, 20)))
    finally:
        engine.close()
        answers.close()
    if options.json:
        options.json.write_text(json.dumps(made, indent=1))


class Policy:
    """The policy's answers. Its engine opens when it is first asked."""

    def __init__(self, spec: ModelSpec, kept: Path | None = None) -> None:
        self._spec = spec
        self._asker: Asker | None = None

    def __call__(self, questions: Sequence[str], draws: int) -> list[list[str]]:
        if self._asker is None:
            self._asker = Asker(open_engine(self._spec))
        prompt = load(SETTINGS.responses.prompt, responses.WORDINGS, slots=responses.SLOTS)
        asked = [prompt.render({"instruction": question}) for question in questions]
        return [[responses.parse(a) for a in some] for some in self._asker(asked, SETTINGS.responses.sampling, draws)]

    def close(self) -> None:
        if self._asker is not None:
            self._asker.engine.close()


MEASURES: Mapping[str, Callable[[Roles, Tasks, Sequence[Post], int], Iterator[Figure]]] = {
    "relevance": measure_relevance,
    "instructions": measure_instructions,
    "quality": measure_quality,
    "rules": measure_rules,
    "sampled": measure_sampled,
}

if __name__ == "__main__":
    main()
