"""Ctrl-C in the middle of a run: it shows as cancelled, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from pugc_dagster.runs import execute

RECIPE = """
extends = "tiny"
[models.tiny]
engine = "scripted"
options = {{ delay = {delay}, capacity = 2 }}
"""
COMMAND = [sys.executable, "-m", "pugc_dagster", "run", "--recipe", "slowly", "--to", "quality"]


@pytest.mark.slow
def test_an_interrupted_run_shows_as_cancelled(project: Path, posts: Callable[..., Path]) -> None:
    inbox = project / "data" / "inbox"
    inbox.mkdir(parents=True)
    posts("a", 30).rename(inbox / "a.jsonl")
    recipe = project / "recipes" / "slowly.toml"
    for number in (signal.SIGINT, signal.SIGTERM):
        recipe.write_text(RECIPE.format(delay=1))
        process = subprocess.Popen(COMMAND, cwd=project, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        deadline, ledger = time.time() + 120, project / "data" / "ledger"
        while len(list(ledger.glob("*/*.parquet"))) < 2 and time.time() < deadline and process.poll() is None:
            time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "goes on where it stopped" in said
        assert "Traceback" not in said
        for part in ledger.glob("*/*.parquet"):
            part.rename(part.with_suffix(f".{number}"))
        with execute.instance() as instance:
            assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.CANCELED}
            assert not instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
    recipe.write_text(RECIPE.format(delay=0))
    assert subprocess.run(COMMAND, cwd=project, capture_output=True, check=False).returncode == 0
