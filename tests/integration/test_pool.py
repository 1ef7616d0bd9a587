"""The pool `gpu`: one engine stage at a time, whoever runs it, and a place that a dead run leaves is free again."""

from __future__ import annotations

import itertools
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
[models.judge]
id = "{name}"
engine = "scripted"
options = {{ delay = {delay}, capacity = 1 }}
[roles]
reward_judge = "judge"
"""
ASKING = ("quality", "instructions", "relevance", "responses", "rewards")


def start(project: Path, name: str, delay: float) -> subprocess.Popen[bytes]:
    (project / "recipes" / f"{name}.toml").write_text(RECIPE.format(name=name, delay=delay))
    command = [sys.executable, "-m", "pugc_dagster", "run", "--recipe", name, "--to", "pairs"]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def spans(instance: dg.DagsterInstance) -> list[tuple[float, float, str]]:
    """When the stages that ask a model ran, over all runs."""
    found = []
    for run in instance.get_runs():
        begun: dict[str, float] = {}
        for entry in instance.all_logs(run.run_id):
            step, event = entry.step_key or "", entry.dagster_event
            if event is None or not step.endswith(ASKING):
                continue
            if event.event_type == dg.DagsterEventType.STEP_START:
                begun[step] = entry.timestamp
            elif event.event_type in (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE):
                found.append((begun[step], entry.timestamp, step))
    return sorted(found)


@pytest.mark.slow
def test_two_runs_never_have_two_engines_at_work(project: Path, posts: Callable[..., Path]) -> None:
    with execute.instance() as instance:
        execute.ingest(instance, execute.workspace(), [str(posts("a", 10))])
    runs = [start(project, name, 0.02) for name in ("one", "two")]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    with execute.instance() as instance:
        found = spans(instance)
    assert len(found) == 2 * len(ASKING)
    assert {step.split("__")[0] for _, _, step in found} == {"one", "two"}
    for (_, end, earlier), (begin, _, later) in itertools.pairwise(found):
        assert begin >= end - 0.05, (earlier, later)


@pytest.mark.slow
def test_a_killed_run_gives_its_place_back(project: Path, posts: Callable[..., Path]) -> None:
    with execute.instance() as instance:
        execute.ingest(instance, execute.workspace(), [str(posts("a", 10))])
    slow = start(project, "one", 1.0)
    rewards = project / "data" / "tables" / "one" / "responses" / "a.parquet"
    deadline = time.time() + 120
    while not rewards.exists():
        assert slow.poll() is None
        assert time.time() < deadline
        time.sleep(0.2)
    time.sleep(3)  # it is in rewards now, and holds the place
    slow.send_signal(signal.SIGKILL)
    slow.wait()
    quick = start(project, "two", 0)
    errors = quick.communicate(timeout=120)[1]
    assert quick.returncode == 0, errors.decode()
    with execute.instance() as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
        statuses = sorted(run.status.value for run in instance.get_runs())
    assert statuses == ["FAILURE", "SUCCESS"]
