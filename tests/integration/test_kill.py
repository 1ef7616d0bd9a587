"""kill -9 in the middle of rewards, then the same command: only the last seconds cost again, and nothing differs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.kills import entries, in_ledger, tables

RECIPE = """
extends = "tiny"
[models.tiny]
engine = "scripted"
[models.judge]
id = "judge"
engine = "scripted"
options = {{ delay = {delay}, journal = "{journal}", capacity = 8 }}
[roles]
reward_judge = "judge"
"""
COMMAND = [sys.executable, "-m", "pugc_dagster", "run", "--recipe", "killed", "--to", "dataset"]


def start(project: Path, *, delay: float) -> subprocess.Popen[bytes]:
    (project / "recipes" / "killed.toml").write_text(RECIPE.format(delay=delay, journal=project / "journal"))
    return subprocess.Popen(COMMAND, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_three_kills_cost_only_what_was_in_flight(project: Path, posts: Callable[..., Path]) -> None:
    for name in ("a", "b", "c"):
        source = posts(name, 12)
        target = project / "data" / "inbox" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())

    journal, lost = project / "journal", 0
    for goal in (160, 360, 480):  # answers of the judge at which the process is killed
        before = len(entries(journal))
        process = start(project, delay=0.4)
        deadline = time.time() + 180
        while len(entries(journal)) < goal and time.time() < deadline and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, process.stderr and process.stderr.read()
        killed_at = time.time()
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored = in_ledger(project)
        answered = entries(journal)[before:]
        kept = [key in stored for _, key in answered]
        assert kept == sorted(kept, reverse=True), "an answer was lost that is older than one that was kept"
        # Written every second; the rest is for a machine that is busy with other things.
        assert all(killed_at - at <= 8.0 for at, key in answered if key not in stored)
        lost += kept.count(False)

    process = start(project, delay=0)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    asked = [key for _, key in entries(journal)]
    assert len(asked) - len(set(asked)) == lost  # asked twice: what was lost, and nothing else
    interrupted = tables(project)

    # The same in one go.
    (project / "data").rename(project / "data-interrupted")
    (project / "data").mkdir()
    (project / "data-interrupted" / "inbox").rename(project / "data" / "inbox")
    process = start(project, delay=0)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    undisturbed = tables(project)
    assert interrupted.keys() == undisturbed.keys()
    assert [name for name in undisturbed if interrupted[name] != undisturbed[name]] == []
