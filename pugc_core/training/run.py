"""A training in processes of its own: no torch in the caller, and the GPUs are free when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pugc_core
from pugc_core import errors, machine
from pugc_core.errors import PugcError, TrainingError
from pugc_core.training.config import TrainingConfig
from pugc_core.training.launch import SPEC, command
from pugc_core.training.summary import Report, Say, Summary, unsaid

_GRACE = 10.0
"""Seconds that an interrupted training has to clear up before it is killed."""


def run(
    *,
    dataset: str,
    start: str,
    objective: str,
    config: TrainingConfig,
    out: str,
    report: Report,
    say: Say = unsaid,
    module: str = "pugc_core.training",
    env: Mapping[str, str] = MappingProxyType({}),
    system_role: bool | None = None,
) -> Summary:
    """What `trainer.train` does, with the same errors, in processes of their own, one per device.

    They run `module`, which ends in `__main__.main`, and see `env` beside the caller's environment. When they fail
    without saying why, that gives a TrainingError with the last 20 lines they printed. Interrupting the caller, or
    killing it, ends them all.
    """
    config.loss(objective)
    config.accumulation(config.launch.processes)
    spec = {
        "dataset": dataset,
        "start": start,
        "objective": objective,
        "out": out,
        "config": config.model_dump(mode="json"),
        "system_role": system_role,
    }
    child = subprocess.Popen(
        command(config.launch, [module, "--stay-with-parent"], gpus=machine.gpus()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        # Launchers hand on the environment, but no open files.
        env={**os.environ, **env, "PYTHONPATH": _with_this_package(), SPEC: json.dumps(spec)},
        start_new_session=True,
    )
    try:
        return _follow(child, report, say)
    finally:
        _end(child)


def _follow(child: subprocess.Popen[str], report: Report, say: Say) -> Summary:
    assert child.stdout is not None
    assert child.stderr is not None
    printed: deque[str] = deque(maxlen=20)
    reader = threading.Thread(target=printed.extend, args=(child.stderr,), daemon=True)
    reader.start()
    last: dict[str, Any] = {}
    for line in child.stdout:
        if not line.startswith("{"):  # a launcher's own words
            printed.append(line)
            continue
        last = json.loads(line)
        if "progress" in last:
            report(last["progress"])
        if "doing" in last:
            say(last["doing"]["what"])
    code = child.wait()
    reader.join(timeout=5)
    if code == 0 and "summary" in last:
        return Summary.of(last["summary"])
    if "error" in last:
        raise _rebuilt(**last["error"])
    said = "".join(printed).rstrip()
    raise TrainingError(
        f"the training process ended {_how(code)}" + (f"; it printed last:\n{said}" if said else ""),
        # The system's killer of processes leaves no word, and launchers end with a code of their own.
        fix="if the machine's memory ran out, lower training.device_batch_size or training.max_length, or give it more",
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
