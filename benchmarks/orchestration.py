"""What Dagster and the tables cost per shard and stage: the whole chain to `dataset` with the scripted engine.

    .venv/bin/python benchmarks/orchestration.py --shards 50 200 500 --posts 10

Prints wall and CPU seconds of `pugc run` in a fresh project, of the same command again, and both per shard and stage.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import projects

RECIPE = 'extends = "tiny"\n[models.tiny]\nengine = "scripted"\n'
STAGES = 7


def write_shard(folder: Path, number: int, posts: int) -> None:
    lines = []
    for i in range(posts):
        body = f"Post {i} of shard {number}. " + f"First take part {i}, then turn it and wait a while. " * 6
        lines.append(json.dumps({"title": f"How to do thing {number}-{i}", "body": body}))
    (folder / f"shard-{number:05d}.jsonl").write_text("\n".join(lines) + "\n")


def run(project: Path) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    projects.pugc(project, "run", "--recipe", "scripted", "--to", "dataset", "--json")
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mib": round(after.ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, nargs="+", default=[200])
    parser.add_argument("--posts", type=int, default=10)
    parser.add_argument("--once", action="store_true", help="without the same again")
    parser.add_argument("--keep", type=Path, help="an empty folder for the project, left as it is at the end")
    options = parser.parse_args()
    for shards in options.shards:
        measure(shards, options)


def measure(shards: int, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = projects.make(Path(options.keep or folder), {"scripted": RECIPE})
        for number in range(shards):
            write_shard(project / "data" / "inbox", number, options.posts)
        for name in ("first run", "same again")[: 1 if options.once else 2]:
            cost = run(project)
            per_shard = cost["wall_s"] / shards
            figures = {
                **cost,
                "s_per_shard": round(per_shard, 3),
                "ms_per_shard_stage": round(1000 * per_shard / STAGES, 1),
            }
            print(f"{name}, {shards} shards of {options.posts} posts: {json.dumps(figures)}", flush=True)


if __name__ == "__main__":
    main()
