"""The figures of the roles, each with its 95% interval and its goal."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pugc_bundled.roles import corpus
from pugc_bundled.roles.asking import SETTINGS, Case, Roles, Vote, mean
from pugc_bundled.roles.corpus import Post
from pugc_bundled.roles.grading import compare, gist
from pugc_bundled.roles.material import DAMAGE
from pugc_bundled.roles.tasks import Tasks
from pugc_bundled.tiny.measure import Figure, auc, correlation, well_formed
from pugc_bundled.tiny.text import overlap
from pugc_core import intervals
from pugc_core.intervals import Estimate
from pugc_core.prompts import instructions
from pugc_core.stages.measures import BANDS

LONGEST = 3000
"""Characters of a post that is asked about."""


def _paired(
    cases: Sequence[Case], votes: Sequence[Sequence[Vote]], truth: Callable[[Case], float]
) -> list[tuple[float, float]]:
    return [(m, truth(case)) for case, some in zip(cases, votes, strict=True) if (m := mean(some)) is not None]


def ruled(tasks: Tasks, posts: Sequence[Post], count: int) -> list[Case]:
    """Responses made by rule from unseen posts, graded by rule."""
    made: list[Case] = []
    while len(made) < count:
        post = tasks.shortened(tasks.rng.choice(posts))
        question = tasks.asked(post) or tasks.shaped(post)
        response, kind = tasks.material.response(post, question)
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
    padded = [case._replace(response=tasks.material.padded(case.response)) for case in cases[: count // 2]]
    first = [mean(v) for v in roles.votes(cases[: count // 2])]
    second = [mean(v) for v in roles.votes(padded)]
    moved = [b - a for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    yield Figure(
        role,
        "score moved by length alone (same content, padded), mean",
        intervals.bootstrap(moved, statistics.fmean),
        "≤ 0.2",
    )


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
        yield Figure(
            role,
            f"r with {name}, on the policy's own answers",
            intervals.bootstrap(_paired(cases, votes, truth), correlation),
            "≥ 0.5",
        )
    rewards_made = [m for m in means if m is not None]
    bands = Counter(sum(m >= low for low in BANDS) for m in rewards_made)
    fullest = bands.most_common(1)[0][0]
    yield Figure(
        role,
        "rewards in the fullest band of half a point",
        intervals.share([sum(m >= low for low in BANDS) == fullest for m in rewards_made]),
        "≤ 0.40",
    )
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
    yield Figure(
        role, "agreement with people, LLMBar, reference shown", intervals.bootstrap(ours, statistics.fmean), goal
    )
    yield Figure(role, "the same of the word-overlap rule (F1)", intervals.bootstrap(words, statistics.fmean))
    yield Figure(role, "the same of the graded overlap", intervals.bootstrap(rule, statistics.fmean))
    yield Figure(
        role,
        "judge minus word-overlap rule, paired",
        intervals.bootstrap([a - b for a, b in zip(ours, words, strict=True)], statistics.fmean),
        "> 0",
    )
    yield Figure(
        role,
        "reference minus no reference, paired",
        intervals.bootstrap([a - b for a, b in zip(ours, none, strict=True)], statistics.fmean),
    )
    scored = [j for j in corpus.judgments(data) if j.side == "unseen"]
    cases = [Case(j.instruction, j.response, j.reference, j.score) for j in scored]
    found = _paired(cases, roles.votes(cases), lambda case: case.score)
    yield Figure(role, "r with GPT-4's scores, reference shown", intervals.bootstrap(found, correlation))


def measure_instructions(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    chosen = [tasks.shortened(p) for p in tasks.rng.choices(posts, k=count)]
    questions = roles.questions(chosen, tasks.rng)
    good = []
    for post, question in zip(chosen, questions, strict=True):
        formed = well_formed(question) and not instructions.refuses(question)
        good.append(formed and bool(gist(question) & gist(post.text)))
    role = "instructor"
    yield Figure(role, "well-formed, on the post, not about the context", intervals.share(good), "≥ 0.95")
    openings = {tuple(q.lower().split()[:3]) for q in questions[:100]}
    yield Figure(
        role,
        "distinct first three words in 100",
        Estimate(len(openings), len(openings), len(openings), len(questions[:100])),
        "≥ 40",
    )


def measure_relevance(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    """Own questions against those of the same site that are nearest, titles hidden."""
    cases: list[tuple[str, str, bool]] = []
    some = [p for p in posts if p.question]
    while len(cases) < count:
        post = tasks.shortened(tasks.rng.choice(some))
        if other := tasks.material.near.near(post, post.question, tasks.rng):
            cases += [(post.text, post.question, True), (post.text, other.question, False)]
    verdicts = roles.verdicts([(text, question) for text, question, _ in cases])
    right = [v == truth for v, (_, _, truth) in zip(verdicts, cases, strict=True)]
    yield Figure("relevance", "accuracy, titles hidden, near questions", intervals.share(right), "≥ 0.85")
    for truth in (True, False):
        some_right = [r for r, case in zip(right, cases, strict=True) if case[2] == truth]
        yield Figure("relevance", f"the same where the truth is {truth}", intervals.share(some_right))


def measure_quality(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[Figure]:
    sound = [tasks.shortened(p) for p in tasks.rng.choices(posts, k=count)]
    texts = [("sound", p.text) for p in sound]
    for kind in DAMAGE:
        some = [tasks.shortened(tasks.rng.choice(posts)) for _ in range(max(2, count // 5))]
        texts += [(kind, tasks.material.damage(kind, post)) for post in some]
    scores = list(zip([kind for kind, _ in texts], roles.ratings([text for _, text in texts]), strict=True))
    for kind in DAMAGE:
        pairs = [(k == "sound", float(s)) for k, s in scores if s is not None and k in ("sound", kind)]
        yield Figure("quality", f"AUC, sound against {kind}", intervals.bootstrap(pairs, auc), "≥ 0.85")
    given = [s for k, s in scores if k == "sound" and s is not None]
    commonest = Counter(given).most_common(1)[0][0]
    yield Figure(
        "quality",
        f"sound posts with the commonest score ({commonest})",
        intervals.share([s == commonest for s in given]),
        "≤ 0.50",
    )
    yield Figure("quality", "answers that parse", intervals.share([s is not None for _, s in scores]))


MEASURES: Mapping[str, Callable[[Roles, Tasks, Sequence[Post], int], Iterator[Figure]]] = {
    "relevance": measure_relevance,
    "instructions": measure_instructions,
    "quality": measure_quality,
    "rules": measure_rules,
    "sampled": measure_sampled,
}
