"""A training in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.training import ROOT, SMALL, dataset, pairs

from pugc_core.errors import PugcError, RecipeError, TrainingError
from pugc_core.training.run import run


@pytest.mark.slow
def test_run_trains_in_a_child_and_relays_its_progress(start: str, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    spec = {
        "dataset": dataset(tmp_path / "data", pairs(3), pairs(1)),
        "start": start,
        "objective": "simpo",
        "config": SMALL,
    }
    said: list[str] = []
    summary = run(**spec, out=str(tmp_path / "child"), report=seen.append, say=said.append)
    assert len(said) == 2
    assert summary.held_out["gain"].n == 1
    assert [p["step"] for p in seen] == [1, 2, 3]
    assert seen[0].keys() >= {"step", "total", "loss", "margin", "accuracy", "learning_rate", "tokens_per_second"}
    assert summary.curve[-1]["loss"] == seen[-1]["loss"]
    assert (tmp_path / "child" / "config.json").exists()
    with pytest.raises(RecipeError, match="unknown objective"):
        run(**{**spec, "objective": "ppo"}, out=str(tmp_path / "x"), report=seen.append)


@pytest.mark.slow
def test_run_raises_what_the_child_raised(start: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no pairs to train on") as caught:
        run(
            dataset=str(tmp_path),
            start=start,
            objective="dpo",
            config=SMALL,
            out=str(tmp_path / "out"),
            report=lambda _: None,
        )
    assert caught.value.fix


def test_the_module_tells_a_wrong_spec_on_stdout(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    for text in ("{", '{"objective": "dpo"}'):
        spec.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "pugc_core.training", str(spec)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"]["kind"] == "RecipeError"


def test_a_child_that_dies_gives_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nfor i in $(seq 30); do echo line $i >&2; done\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(PugcError, match="ended by signal SIGKILL") as caught:
        run(dataset="d", start="s", objective="dpo", config=SMALL, out="o", report=lambda _: None)
    assert isinstance(caught.value, TrainingError)
    assert caught.value.problem.splitlines()[1:] == [f"line {i}" for i in range(11, 31)]
    assert "device_batch_size" in str(caught.value.fix)  # the system may have killed it for its memory


CALLER = """
import sys
from pugc_core.training.config import TrainingConfig
from pugc_core.training.run import run
config = TrainingConfig(batch_size=1, device_batch_size=1, max_steps=100000)
run(dataset=sys.argv[1], start=sys.argv[2], objective="simpo", config=config, out=sys.argv[3],
    report=lambda p: print(p["step"], flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_child_ends_with_its_parent(how: signal.Signals, start: str, tmp_path: Path) -> None:
    data, out = dataset(tmp_path / "data", pairs(2)), tmp_path / "out"
    parent = subprocess.Popen(
        [sys.executable, "-c", CALLER, data, start, str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # Where the tests run in the background of a shell, SIGINT is ignored, and whoever they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().strip() == "1"
    child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
    parent.send_signal(how)
    parent.wait(20)
    deadline = time.monotonic() + 15
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(child)
    parent.stdout.close()
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
