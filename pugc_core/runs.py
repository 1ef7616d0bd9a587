"""What the last run asked of the models, by stage: a small JSON file per recipe."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pugc_core import storage
from pugc_core.dispatch import Calls


def record(
    path: str, run: str, stage: str, role: str, calls: Calls, *, shards: int, reused: int, seconds: float
) -> None:
    """Note a stage's calls under the run's id. A new run id starts a new page."""
    page = last(path)
    if page.get("run") != run:
        page = {"run": run, "stages": {}}
    # A command may run a stage several times, over different shards.
    counts = {**asdict(calls), "shards": shards, "reused": reused, "seconds": round(seconds, 2)}
    before = page["stages"].get(stage, {})
    page["stages"][stage] = {"role": role, **{name: before.get(name, 0) + n for name, n in counts.items()}}
    storage.write(path, json.dumps(page, indent=2).encode())


def last(path: str) -> dict[str, Any]:
    """The page of the last run: {"run": id, "stages": {stage: {role, made, from_ledger, ...}}}; {} before the first."""
    try:
        page: dict[str, Any] = json.loads(storage.read(path))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return page
