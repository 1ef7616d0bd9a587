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


def start(project: Path, *, delay: float) -> tuple[subprocess.Popen[bytes], Path]:
    journal = project / "journal"
    (project / "recipes" / "killed.toml").write_text(RECIPE.format(delay=delay, journal=journal))
    return subprocess.Popen(COMMAND, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE), journal


@pytest.mark.slow
def test_three_kills_cost_only_what_was_in_flight(
    project: Path, posts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        source = posts(name, 12)
        target = project / "data" / "inbox" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())

    for goal in (80, 280, 480):  # answers of the judge at which the process is killed
        process, journal = start(project, delay=0.05)
        deadline = time.time() + 120
        while len(entries(journal)) < goal and time.time() < deadline and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, process.stderr and process.stderr.read()
        killed_at = time.time()
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored = in_ledger(project)
        lost = [at for at, key in entries(journal) if key not in stored]
        assert all(killed_at - at <= 2.0 for at in lost), "an answer more than two seconds old was lost"

    process, journal = start(project, delay=0)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    asked = [key for _, key in entries(journal)]
    repeated = len(asked) - len(set(asked))
    assert len(set(asked)) > 0
    assert repeated <= 3 * 2.5 / 0.05 * 8  # three times what two seconds and the flight hold
    interrupted = tables(project)

    # The same in one go.
    (project / "data").rename(project / "data-interrupted")
    (project / "data").mkdir()
    (project / "data-interrupted" / "inbox").rename(project / "data" / "inbox")
    process, _ = start(project, delay=0)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    undisturbed = tables(project)
    assert interrupted.keys() == undisturbed.keys()
    assert [name for name in undisturbed if interrupted[name] != undisturbed[name]] == []
