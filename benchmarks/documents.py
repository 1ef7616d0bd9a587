"""What the chain costs on real documents, and what a change costs afterwards.

    .venv/bin/python benchmarks/documents.py FILE.parquet --documents 500 --shards 5 [--recipe tiny] [--to dataset]

FILE has a text column (see [ugc.fields]). In a fresh project: the first run; the same again; 50 more documents in a
new shard; a changed reward prompt; the old prompt back. Prints rows per stage, calls and tokens per role, wall
seconds and the resident size of the largest process for each.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import projects

PROMPT = """###Task Description:
Does the response agree with the reference document? Write feedback, then [RESULT] and a score from 1 to 5.
###The instruction to evaluate:
{instruction}
###Response to evaluate:
{response}
###Reference Document:
{ugc}
###Score Rubrics:
1 off topic, 2 weak, 3 fair, 4 good, 5 excellent.
###Feedback: """


class Project:
    def __init__(self, folder: Path, recipe: str, to: str) -> None:
        self.folder, self.to = folder, to
        projects.make(folder, {})
        self._extends = f'extends = "{recipe}"\n'
        self.recipe(None)

    def recipe(self, reward_prompt: str | None) -> None:
        change = ""
        if reward_prompt:
            (self.folder / "recipes" / "judge.txt").write_text(reward_prompt)
            change = '[rewards]\nprompt = "judge.txt"\n'
        (self.folder / "recipes" / "measured.toml").write_text(self._extends + change)

    def add(self, name: str, documents: pl.DataFrame) -> None:
        documents.write_parquet(self.folder / "data" / "inbox" / f"{name}.parquet")

    def run(self, what: str) -> dict[str, Any]:
        begun = time.perf_counter()
        output = projects.pugc(self.folder, "run", "--recipe", "measured", "--to", self.to, "--json")
        wall = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        status: dict[str, Any] = json.loads(output)
        made = {role: calls["made"] for role, calls in status["roles"].items()}
        print(f"{what}: {wall:.1f} s, largest process so far {peak:.0f} MiB, calls {json.dumps(made)}", flush=True)
        return status


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--to", default="dataset")
    options = parser.parse_args()
    documents = pl.read_parquet(options.file).sample(options.documents + 50, seed=0, shuffle=True)
    size = options.documents // options.shards
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), options.recipe, options.to)
        for number in range(options.shards):
            project.add(f"shard-{number}", documents.slice(number * size, size))
        status = project.run("first run")
        for stage, counts in status["stages"].items():
            print(f"  {stage}: in {counts['rows_in']}, kept {counts['kept']}, dropped {json.dumps(counts['dropped'])}")
        for role, calls in status["roles"].items():
            print(f"  {role}: {json.dumps(calls)}")
        print(f"  rewards: {json.dumps(status['rewards'])}")
        project.run("same again")
        project.add("shard-new", documents.slice(options.documents, 50))
        project.run("50 documents more, in a new shard")
        project.recipe(PROMPT)
        project.run("another reward prompt")
        project.recipe(None)
        project.run("the old reward prompt")


if __name__ == "__main__":
    main()
