"""Recipe `laptop` for real: the base model and the roles adapter, in vLLM, from posts to pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pugc_core.errors import PugcError
from pugc_core.models.smollm2 import merge
from pugc_core.tables.workspace import Workspace
from pugc_dagster.terminal import console

POSTS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A project in which a few posts have become pairs, and its status."""
    try:
        merge.folder(lambda said: None)
    except PugcError as err:
        pytest.skip(f"the base model cannot be had: {err.problem}")
    root = tmp_path_factory.mktemp("laptop")
    for name in ("dagster.yaml", "workspace.yaml"):
        (root / name).write_bytes((Path(__file__).parent.parent.parent / name).read_bytes())
    kitchen = next(path for path in console.samples() if path.stem == "kitchen")
    few = root / "kitchen.jsonl"
    few.write_text("\n".join(kitchen.read_text(encoding="utf-8").splitlines()[:POSTS]) + "\n", encoding="utf-8")
    pugc(root, "ingest", str(few))
    return root, json.loads(pugc(root, "run", "--recipe", "laptop", "--to", "pairs", "--json"))


def pugc(project: Path, *words: str) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "PUGC_DATA", "PUGC_RECIPES")}
    command = [sys.executable, "-m", "pugc_dagster", *words]
    result = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_posts_become_questions_answers_and_votes(made: tuple[Path, dict[str, Any]]) -> None:
    root, status = made
    for stage in ("ugc", "quality", "instructions", "relevance", "responses", "rewards"):
        counts = status["stages"][stage]
        assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values())
        assert counts["kept"] > 0, stage
    assert status["rewards"]["parse_rate"] > 0.9
    assert {role: calls["made"] > 0 for role, calls in status["roles"].items()} == dict.fromkeys(
        ("quality_judge", "instructor", "relevance_judge", "policy", "reward_judge"), True
    )
    store = Workspace(str(root / "data")).store
    questions = store.read("laptop", "instructions", "kitchen").filter(pl.col("keep"))["instruction"].to_list()
    assert sum(question.endswith("?") for question in questions) > len(questions) / 2


@pytest.mark.slow
def test_the_same_again_asks_nobody(made: tuple[Path, dict[str, Any]]) -> None:
    root, _ = made
    again = json.loads(pugc(root, "run", "--recipe", "laptop", "--to", "pairs", "--json"))
    assert all(calls["made"] == 0 for calls in again["roles"].values())
