"""Does training on the pairs do anything? The whole chain with the bundled model, then trained policy against start.

    .venv/bin/python benchmarks/proof.py --data DIR --documents 1000 --work FOLDER

DIR holds ugc_open.parquet. Pairs are made from `--documents` posts, once with each post as the reference of its own
answers and once with another post in its place (`[rewards] reference = "random"`), and DPO trains a policy on each.
Then the start and both policies answer the questions of posts that none of them, nor the bundled model, was trained
on; the judge scores every answer alone, with the post as reference, N = 8 votes. A judge that sees one answer at a
time knows no order of answers; instead both sides are judged twice, with votes of their own each time.
Prints, for each policy against the start, the mean difference in reward per document and the share of documents won,
with 95% intervals by bootstrap over documents. The same command goes on where it was broken off.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import projects

from pugc_bundled.tiny.corpus import Document, clean
from pugc_core.intervals import bootstrap
from pugc_core.tables.workspace import Workspace

# A measurement goes on where a run would stop: too few votes are dropped with that reason, and shown.
LENIENT = """[checks]
min_parse_rate = 0.0
min_votes_complete = 0.0
"""
OWN = """extends = "{extends}"
[training]
objectives = ["dpo"]
{training}
"""
RANDOM = """extends = "own"
[rewards]
reference = "random"
"""
JUDGED = """extends = "{extends}"
[models.trained]
id = "{policy}"
[roles]
policy = "trained"
[rewards]
n = 16
max_draws = 32
"""
START = """extends = "{extends}"
[rewards]
n = 16
max_draws = 32
"""


def held_out(row: dict[str, str | None]) -> bool:
    """Whether the bundled model never saw the post: the same rule as in its training."""
    title, text = clean(row["title"] or ""), clean(row["text"] or "")
    return Document(text, "post", key=title or text).is_test


def run(folder: Path, recipe: str, to: str) -> None:
    began = time.perf_counter()
    status = json.loads(projects.pugc(folder, "run", "--recipe", recipe, "--to", to, "--json"))
    print(f"\n{recipe}, to {to}: {time.perf_counter() - began:.0f} s")
    for stage, counts in status["stages"].items():
        print(f"  {stage}: in {counts['rows_in']}, kept {counts['kept']}, dropped {json.dumps(counts['dropped'])}")
    for role, calls in status["roles"].items():
        print(f"  {role}: {json.dumps(calls)}")
    sys.stdout.flush()


def scores(folder: Path, recipe: str) -> pl.DataFrame:
    """Per question: the mean of the first and of the second eight votes over its answers, their number and length."""
    store = Workspace(str(folder / "data")).store
    made = []
    for shard in store.shards(recipe, "rewards"):
        votes = store.read(recipe, "rewards", shard, ["response_id", "instruction_id", "votes", "keep"])
        texts = store.read(recipe, "responses", shard).select("response_id", length=pl.col("text").str.len_chars())
        made.append(votes.filter(pl.col("keep")).join(texts, on="response_id"))
    valid = pl.concat(made).with_columns(
        valid=pl.col("votes").list.eval(pl.element().struct.field("score").drop_nulls())
    )
    return valid.group_by("instruction_id").agg(
        first=pl.col("valid").list.head(8).list.mean().mean(),
        second=pl.col("valid").list.slice(8, 8).list.mean().mean(),
        answers=pl.len(),
        length=pl.col("length").mean(),
    )


def versus(names: str, trained: pl.DataFrame, start: pl.DataFrame) -> None:
    """One line per judging, and one for both together."""
    both = trained.join(start, on="instruction_id", suffix="_start").drop_nulls().sort("instruction_id")
    print(f"\n{names}: {both.height} documents where both have an answer that was judged")
    for label, columns in (("first 8 votes", ["first"]), ("second 8 votes", ["second"]), ("all", ["first", "second"])):
        ours = both.select(pl.mean_horizontal(columns)).to_series()
        theirs = both.select(pl.mean_horizontal(f"{c}_start" for c in columns)).to_series()
        gains = (ours - theirs).to_list()
        print(
            f"  {label}: {theirs.mean():.3f} -> {ours.mean():.3f}, gain {bootstrap(gains, statistics.fmean)}; "
            f"won {bootstrap(gains, won)} (ties half)"
        )
    print(f"  mean length: {both['length_start'].mean():.0f} -> {both['length'].mean():.0f} characters")


def won(gains: Sequence[float]) -> float:
    return statistics.fmean((gain > 0) + 0.5 * (gain == 0) for gain in gains)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what it started ends too
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--shard", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=400, help="most held-out posts to compare on")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--training", default="", help='more lines for [training], such as "epochs = 1"')
    options = parser.parse_args()
    rows = pl.read_parquet(options.data / "ugc_open.parquet").sample(fraction=1.0, seed=0, shuffle=True)
    unseen = pl.Series([held_out(row) for row in rows.select("title", "text").iter_rows(named=True)])
    learnt = rows.filter(~unseen).head(options.documents)
    asked = rows.filter(unseen).head(options.held_out)
    print(f"{learnt.height} posts to make pairs from, {asked.height} held out", flush=True)
    own = OWN.format(extends=options.recipe, training=options.training) + LENIENT
    pairs = projects.make(options.work / "pairs", {"own": own, "random": RANDOM})
    projects.fill(pairs, learnt, options.shard)
    for recipe in ("own", "random"):
        run(pairs, recipe, "policy")
    policies = {name: Workspace(str(pairs / "data")).policy(name, "dpo") for name in ("own", "random")}
    recipes = {name: JUDGED.format(extends=options.recipe, policy=policy) for name, policy in policies.items()}
    recipes["start"] = START.format(extends=options.recipe)
    recipes = {name: text + LENIENT for name, text in recipes.items()}
    compared = projects.make(options.work / "compared", recipes)
    projects.fill(compared, asked, options.shard)
    made = {}
    for recipe in ("start", *policies):
        run(compared, recipe, "rewards")
        made[recipe] = scores(compared, recipe)
    versus("DPO on pairs judged by the post itself, against the start", made["own"], made["start"])
    versus("DPO on pairs judged by another post, against the start", made["random"], made["start"])
    versus("The former against the latter", made["own"], made["random"])


if __name__ == "__main__":
    main()
