"""A training in a process of its own: no torch in the caller, and the GPU is free when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

import pugc_core
from pugc_core import errors
from pugc_core.errors import PugcError, TrainingError
from pugc_core.training.config import TrainingConfig
from pugc_core.training.losses import find
from pugc_core.training.summary import Report, Summary

_GRACE = 10.0
"""Seconds that an interrupted training has to clear up before it is killed."""


def run(*, dataset: str, start: str, objective: str, config: TrainingConfig, out: str, report: Report) -> Summary:
    """What `trainer.train` does, with the same errors, in a child process.

    A child that fails without saying why gives a TrainingError with the last 20 lines it printed. Interrupting the
    caller, or killing it, ends the child and all that it started.
    """
    find(objective)
    spec = {
        "dataset": dataset,
        "start": start,
        "objective": objective,
        "out": out,
        "config": config.model_dump(mode="json"),
    }
    # An open file without a name: nothing is left behind, however this process ends.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        json.dump(spec, file)
        file.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "pugc_core.training", f"/dev/fd/{file.fileno()}", "--stay-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": _with_this_package()},
            pass_fds=(file.fileno(),),
            start_new_session=True,
        )
        try:
            return _follow(child, report)
        finally:
            _end(child)


def _follow(child: subprocess.Popen[str], report: Report) -> Summary:
    assert child.stdout is not None
    assert child.stderr is not None
    printed: deque[str] = deque(maxlen=20)
    reader = threading.Thread(target=printed.extend, args=(child.stderr,), daemon=True)
    reader.start()
    last: dict[str, Any] = {}
    for line in child.stdout:
        last = json.loads(line)
        if "progress" in last:
            report(last["progress"])
    code = child.wait()
    reader.join(timeout=5)
    if code == 0 and "summary" in last:
        return Summary(**last["summary"])
    if "error" in last:
        raise _rebuilt(**last["error"])
    said = "".join(printed).rstrip()
    raise TrainingError(
        f"the training process ended {_how(code)}" + (f"; it printed last:\n{said}" if said else ""),
        fix="if memory ran out, lower training.device_batch_size or training.max_length" if code < 0 else None,
    )


def _rebuilt(problem: str, fix: str | None, kind: str) -> PugcError:
    known = getattr(errors, kind, None)
    cls = known if isinstance(known, type) and issubclass(known, PugcError) else TrainingError
    return cls(problem, fix=fix)


def _how(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _end(child: subprocess.Popen[str]) -> None:
    """End the child's whole process group, if it still runs, and close the pipes."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe:
            pipe.close()


def _with_this_package() -> str:
    here = str(Path(pugc_core.__file__).parent.parent)
    return os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH", "")) if p)
