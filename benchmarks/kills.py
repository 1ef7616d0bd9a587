"""kill -9 in the middle of rewards on real documents, then the same command: what is asked again, and what differs.

    .venv/bin/python benchmarks/kills.py FILE.parquet --documents 500 --shards 5 --kills 3

The scripted engine answers (the same request, the same answer), slowed down so that a kill lands where it should; its
journal says what was asked and when, also after a kill. Prints, for each kill, when it came and what was lost; then the
votes asked twice, and whether tables and data set equal those of an undisturbed run byte for byte.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import projects

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from helpers.kills import entries, in_ledger, tables  # noqa: E402

RECIPE = """extends = "tiny"
[models.tiny]
engine = "scripted"
[models.judge]
id = "judge"
engine = "scripted"
options = {{ delay = {delay}, journal = "{journal}", capacity = 32 }}
[roles]
reward_judge = "judge"
"""


def start(project: Path, delay: float) -> subprocess.Popen[bytes]:
    recipe = RECIPE.format(delay=delay, journal=project / "journal")
    (project / "recipes" / "killed.toml").write_text(recipe)
    return projects.start(project, "run", "--recipe", "killed", "--to", "dataset")


def prepare(folder: Path, documents: pl.DataFrame, shards: int) -> Path:
    projects.fill(projects.make(folder, {}), documents, -(-documents.height // shards))
    return folder


def finish(project: Path) -> dict[str, bytes]:
    """Run to the end, at full speed."""
    process = start(project, 0)
    process.communicate()
    if process.returncode:
        raise SystemExit("the run failed")
    return tables(project)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--shards", type=int, default=5)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    documents = pl.read_parquet(options.file).sample(options.documents, seed=0, shuffle=True)
    with tempfile.TemporaryDirectory() as folder:
        whole = prepare(Path(folder) / "whole", documents, options.shards)
        undisturbed = finish(whole)
        votes = len(entries(whole / "journal"))
        print(f"undisturbed: {votes} votes, {len(undisturbed)} files", flush=True)

        killed = prepare(Path(folder) / "killed", documents, options.shards)
        for kill in range(1, options.kills + 1):
            process = start(killed, delay=0.05)
            goal = votes * kill // (options.kills + 1)
            while len(entries(killed / "journal")) < goal and process.poll() is None:
                time.sleep(0.05)
            if process.poll() is not None:
                raise SystemExit("the run ended before it was killed")
            at = time.time()
            process.send_signal(signal.SIGKILL)
            process.wait()
            stored = in_ledger(killed)
            lost = [at - second for second, key in entries(killed / "journal") if key not in stored]
            figures = {"stored": len(stored), "lost": len(lost), "oldest_lost_s": round(max(lost, default=0.0), 2)}
            print(f"kill {kill}: {json.dumps(figures)}", flush=True)
        resumed = finish(killed)
        asked = [key for _, key in entries(killed / "journal")]
        print(f"resumed: {len(asked)} votes asked in all, {len(asked) - len(set(asked))} of them twice", flush=True)
        differ = sorted(
            name for name in undisturbed.keys() | resumed.keys() if undisturbed.get(name) != resumed.get(name)
        )
        print(f"files that differ from the undisturbed run: {differ or 'none'}", flush=True)


if __name__ == "__main__":
    main()
