"""Projects in folders of their own, and `pugc` in them: what the other scripts here share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl

ROOT = Path(__file__).parent.parent


def make(folder: Path, recipes: Mapping[str, str]) -> Path:
    """A project with these recipes (name, text) in `folder`, with an empty inbox; one that is there stays."""
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "inbox").mkdir(parents=True, exist_ok=True)
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(ROOT / name, folder)
    for name, text in recipes.items():
        (folder / "recipes" / f"{name}.toml").write_text(text)
    return folder


def fill(folder: Path, documents: pl.DataFrame, rows: int) -> None:
    """Documents into the inbox, `rows` to a shard; shards that are there stay as they are."""
    for number, start in enumerate(range(0, documents.height, rows)):
        path = folder / "data" / "inbox" / f"shard-{number:03}.parquet"
        if not path.exists():
            documents.slice(start, rows).write_parquet(path)


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """`pugc` in the project, whatever the caller's own project is. Its output can be read."""
    env = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "PUGC_DATA", "PUGC_RECIPES")}
    command = [sys.executable, "-m", "pugc_dagster", *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE)


def pugc(folder: Path, *words: str) -> str:
    """What `pugc` prints. Ends this process when it fails; however this process ends, it ends with it."""
    process = start(folder, *words)
    try:
        printed, _ = process.communicate()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        raise SystemExit(f"pugc {' '.join(words)} failed: see above")
    return printed.decode()
