"""Is the trained policy better than its start, by a measure that did not make the pairs?

    .venv/bin/python benchmarks/head_to_head.py --data DIR --work FOLDER --documents 450

DIR holds the open data. The recipe `laptop` makes pairs from posts of the test side, which its judges were not trained
on, and trains a policy by DPO. Start and policy then answer people's questions of the two sources that nothing here has
seen, several times each with the same seeds. No judge is asked: an answer is measured against the post that people
gave to the question, by graded overlap (`smollm2.grading`, 1 to 5) and by plain word overlap (F1). Prints the means,
the gain and the share of questions won, ties half, with 95% intervals by bootstrap over questions, and the lengths,
since a longer answer has more words to share. The same command goes on where it was broken off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import projects

from pugc_bundled.roles import corpus
from pugc_bundled.roles.asking import SETTINGS, Policy
from pugc_bundled.roles.corpus import Post
from pugc_bundled.roles.grading import compare
from pugc_bundled.tiny.text import overlap
from pugc_core.intervals import bootstrap
from pugc_core.models.spec import ModelSpec
from pugc_core.tables.workspace import Workspace

RECIPE = """extends = "laptop"
[training]
objectives = ["dpo"]
{training}
"""
MEASURES: dict[str, Callable[[str, Post], float]] = {
    "graded overlap (1 to 5)": lambda said, post: compare(said, post.text, post.question).score,
    "word overlap (F1)": lambda said, post: overlap(said, post.text),
    "length in words": lambda said, post: float(len(said.split())),
}


def answered(spec: ModelSpec, posts: Sequence[Post], draws: int, kept: Path) -> list[list[str]]:
    """The model's answers to the posts' questions, kept in a file."""
    if not kept.exists():
        policy = Policy(spec)
        try:
            kept.write_text(json.dumps(policy([post.question for post in posts], draws)))
        finally:
            policy.close()
    made: list[list[str]] = json.loads(kept.read_text())
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=450, help="posts to make pairs from")
    parser.add_argument("--questions", type=int, default=300, help="questions to compare on")
    parser.add_argument("--draws", type=int, default=2, help="answers to each")
    parser.add_argument("--training", default="", help='more lines for [training], such as "epochs = 1"')
    options = parser.parse_args()
    every = corpus.posts(options.data)
    learnt = [p for p in corpus.of("test", every) if len(p.text) <= 3000][: options.documents]
    asked = [p for p in corpus.of("unseen", every) if p.question][: options.questions]
    print(f"{len(learnt)} posts to make pairs from, {len(asked)} questions to compare on", flush=True)
    folder = projects.make(options.work, {"versus": RECIPE.format(training=options.training)})
    rows = [{"text": p.text, "kind": "post", "source": p.source, "thread": p.key[:80]} for p in learnt]
    projects.fill(folder, pl.DataFrame(rows), 75)
    began = time.perf_counter()
    status = json.loads(projects.pugc(folder, "run", "--recipe", "versus", "--to", "policy", "--json"))
    print(f"chain and training: {time.perf_counter() - began:.0f} s")
    print(json.dumps({name: counts["kept"] for name, counts in status["stages"].items()}))
    start = SETTINGS.model("policy")
    trained = start.model_copy(update={"id": Workspace(str(folder / "data")).policy("versus", "dpo")})
    sides = {
        name: answered(spec, asked, options.draws, folder / f"{name}.json")
        for name, spec in (("start", start), ("trained", trained))
    }
    for name, measure in MEASURES.items():
        per_question = {
            side: [
                statistics.fmean(measure(said, post) for said in some)
                for post, some in zip(asked, answers, strict=True)
            ]
            for side, answers in sides.items()
        }
        gains = [b - a for a, b in zip(per_question["start"], per_question["trained"], strict=True)]
        means = " -> ".join(f"{statistics.fmean(values):.3f}" for values in per_question.values())
        print(
            f"{name}: {means}, gain {bootstrap(gains, statistics.fmean)}; won {bootstrap(gains, won)}; n {len(gains)}"
        )


def won(gains: Sequence[float]) -> float:
    """The share of questions on which the trained policy does better, ties half."""
    return statistics.fmean((gain > 0) + 0.5 * (gain == 0) for gain in gains)


if __name__ == "__main__":
    main()
