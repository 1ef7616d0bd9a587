"""Where a policy is written: a hidden folder beside its place, renamed when complete, so that no half policy stands.

The folder holds the checkpoints meanwhile. What a killed training left there is taken up again by one that would go the
same way (same `key`), and cleared by any other.
"""

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
_KEY = "key"
_CHECKPOINTS = "checkpoints"
_WHOLE = "whole"


def unfinished(out: str) -> Path:
    """The folder in which the policy `out` is made."""
    target = Path(out).absolute()
    return target.with_name(f".{target.name}.tmp")


def checkpoints(folder: Path) -> Path:
    """Where an unfinished policy has its checkpoints."""
    return folder / _CHECKPOINTS


def mark_whole(checkpoint: Path) -> None:
    """Say that a checkpoint is complete (its files are written one by one, and a kill may come between two), and only
    then remove those before it, whose marks go first."""
    (checkpoint / _WHOLE).touch()
    for older in checkpoint.parent.glob("checkpoint-*"):
        if older != checkpoint:
            (older / _WHOLE).unlink(missing_ok=True)
            shutil.rmtree(older, ignore_errors=True)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of an unfinished policy."""
    whole = [p for p in checkpoints(folder).glob("checkpoint-*") if (p / _WHOLE).is_file()]
    return max(whole, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


@contextmanager
def staging(out: str, key: str = "") -> Iterator[Path]:
    """A folder to write a policy into; becomes `out` when the block ends well, without its checkpoints. When it does
    not, it stays if there is a checkpoint to go on from, and vanishes otherwise.

    Raises TrainingError when the place cannot be written, is in use by another training, or holds something that is
    not a trained policy.
    """
    target, folder = Path(out).absolute(), unfinished(out)
    old = target.with_name(f".{target.name}.old")
    try:
        if target.exists() and not ((target / RECORD).is_file() or _empty(target)):
            raise TrainingError(
                f"{target} exists and is not a trained policy (no {RECORD})", fix="move it away, or name another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as err:
        raise _unwritable(target, err) from err
    try:
        _claim(lock, target)
        try:
            _clear(old, folder, key)
        except OSError as err:
            raise _unwritable(target, err) from err
        try:
            yield folder
            for name in (_CHECKPOINTS, _KEY):
                _remove(folder / name)
            if target.exists():
                target.rename(old)
            folder.rename(target)
        finally:
            if folder.exists() and not last_checkpoint(folder):
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _clear(old: Path, folder: Path, key: str) -> None:
    """Removes what earlier trainings left, but for checkpoints under the same key."""
    mark = folder / _KEY
    same = bool(key) and mark.is_file() and mark.read_text(encoding="utf-8") == key
    for stale in (old, *folder.iterdir()):
        if not (same and stale.name in (_KEY, _CHECKPOINTS)):
            _remove(stale)
    mark.write_text(key, encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _unwritable(target: Path, err: OSError) -> TrainingError:
    return TrainingError(
        f"cannot write {target}: {err.strerror or err}", fix="make its parent folder writable, or set PUGC_DATA"
    )


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
