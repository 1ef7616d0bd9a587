"""What the roles can do on posts that they never saw: `python -m pugc_bundled.roles.measure --data DIR`.

Asks what the pipeline asks: prompts, sampling and engine are those of the recipe `laptop`. Prints a table of figures
with 95% intervals and goals, for the sources that were never seen and for unseen documents of the others, then
questions, answers and votes as they come, none picked.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pugc_bundled.roles import corpus, phrases
from pugc_bundled.roles.asking import SETTINGS, Case, Policy, Roles, mean
from pugc_bundled.roles.corpus import Post
from pugc_bundled.roles.figures import LONGEST, MEASURES, measure_people
from pugc_bundled.roles.tasks import Tasks
from pugc_bundled.tiny.measure import Asker, Figure
from pugc_bundled.tiny.text import Salience
from pugc_core.engines import open_engine


def examples(roles: Roles, tasks: Tasks, posts: Sequence[Post], count: int) -> Iterator[str]:
    """Posts as they come: the question that the instructor asks, two answers, a vote on each."""
    chosen = [tasks.shortened(p) for p in tasks.rng.sample(list(posts), count)]
    questions = roles.questions(chosen, tasks.rng)
    answers = roles.policy(questions, 2)
    cases = [Case(q, said, p.text, 0.0) for p, q, some in zip(chosen, questions, answers, strict=True) for said in some]
    votes = iter(roles.votes(cases))
    for post, question, some in zip(chosen, questions, answers, strict=True):
        yield f"**Post** ({post.source}): {' '.join(post.text.split())[:300]} ...\n"
        yield f"**Question:** {' '.join(question.split())}\n"
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
    answers = Policy(specs["policy"])
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
                    made.setdefault(side, []).append(_plain(figure))
        if not options.only or "people" in options.only:
            for figure in measure_people(roles, options.data):
                print(figure, flush=True)
                made.setdefault("people", []).append(_plain(figure))
        if not options.only or "examples" in options.only:
            unseen = [p for p in corpus.of("unseen", every) if len(p.text) <= LONGEST]
            print("\nTwenty posts, unpicked:\n")
            print("\n".join(examples(roles, Tasks(unseen, salience, random.Random(8)), unseen, 20)))
    finally:
        engine.close()
        answers.close()
    if options.json:
        options.json.write_text(json.dumps(made, indent=1))


def _plain(figure: Figure) -> Mapping[str, object]:
    return figure._asdict() | {"estimate": vars(figure.estimate)}


if __name__ == "__main__":
    main()
