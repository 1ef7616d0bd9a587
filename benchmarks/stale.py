"""How long it takes to say what is out of date: `pugc stale` over many shards.

    .venv/bin/python benchmarks/stale.py --shards 10000

The tables of one small shard are copied under as many names. Timed, as whole commands: the first look, which opens
every footer; the next one, which finds that no file has changed; and one after the reward prompt was changed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import projects
from orchestration import RECIPE, write_shard

PROMPT = "Post: {ugc}\nQuestion: {instruction}\nAnswer: {response}\nFeedback, then [RESULT] and 1 to 5.\n"


def pugc(project: Path, *arguments: str) -> tuple[float, str]:
    begun = time.perf_counter()
    output = projects.pugc(project, *arguments, "--recipe", "scripted", "--json")
    return time.perf_counter() - begun, output


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = projects.make(Path(folder), {"scripted": RECIPE})
        recipe, inbox = project / "recipes" / "scripted.toml", project / "data" / "inbox"
        write_shard(inbox, 0, 10)
        pugc(project, "run", "--to", "pairs")
        files = [*inbox.glob("*.jsonl"), *(project / "data" / "tables").rglob("*.parquet")]
        for file in files:
            content = file.read_bytes()
            for number in range(1, options.shards):
                file.with_name(f"shard-{number:05d}{file.suffix}").write_bytes(content)
        time.sleep(3)  # a file that has just changed is not trusted
        for what in ("first look", "next look", "another reward prompt"):
            if what == "another reward prompt":
                (project / "recipes" / "judge.txt").write_text(PROMPT)
                recipe.write_text(RECIPE + '[rewards]\nprompt = "judge.txt"\n')
            seconds, output = pugc(project, "stale")
            stages = json.loads(output)["stages"]
            found = {stage: len(counts["out_of_date"]) for stage, counts in stages.items() if counts["out_of_date"]}
            print(f"{what}: {seconds:.1f} s for {options.shards} shards x 7 stages; out of date: {found}", flush=True)


if __name__ == "__main__":
    main()
