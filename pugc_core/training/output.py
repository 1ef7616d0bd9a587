"""Where a policy is written: a hidden folder beside its place, renamed when complete, so that no half policy stands."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pugc_core.errors import TrainingError

RECORD = "training.json"
"""The record that stands in every trained policy; only a folder that has it is ever replaced."""


@contextmanager
def staging(out: str) -> Iterator[Path]:
    """A folder to write a policy into; becomes `out` when the block ends well, and vanishes when it does not.

    What a killed training left is cleared. Raises TrainingError when the place cannot be written, is in use by
    another training, or holds something that is not a trained policy.
    """
    target = Path(out).absolute()
    folder, old = (target.with_name(f".{target.name}.{kind}") for kind in ("tmp", "old"))
    if target.exists() and not ((target / RECORD).is_file() or _empty(target)):
        raise TrainingError(
            f"{target} exists and is not a trained policy (no {RECORD})", fix="move it away, or name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as err:
        raise TrainingError(
            f"cannot write {target}: {err.strerror or err}", fix="make its parent folder writable, or set PUGC_DATA"
        ) from err
    try:
        _claim(lock, target)
        for stale in (old, *folder.iterdir()):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        try:
            yield folder
            if target.exists():
                target.rename(old)
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _claim(lock: int, target: Path) -> None:
    """One training per folder; the lock goes with the process, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise TrainingError(
            f"another training is writing {target}", fix="wait for it, or train into another folder"
        ) from err
    except OSError:
        pass  # a file system without locks
