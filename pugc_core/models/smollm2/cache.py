"""The user's cache: folders that are made once, whole or not at all.

A folder is made under a hidden name beside its place, checked, written through to the disk and then renamed, so a
killed process leaves none under its own name. What it left under the hidden one is swept by the next that makes the
folder, which holds a lock meanwhile: of two processes one waits for the other.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pugc_core.errors import StorageError

Say = Callable[[str], object]
"""Takes a sentence about what is being done."""

_MARK = ".whole"
"""In a finished folder: JSON with the size in bytes of each of its files."""
_MADE_HERE = re.compile(r"\.?(smollm2(?:-[a-z]+)?-[0-9a-f]{16}-\d+)(?:\..*)?")
_ELSEWHERE = "export PUGC_CACHE=/a/folder/elsewhere"


def root() -> Path:
    """`$PUGC_CACHE`, else `pugc` in `$XDG_CACHE_HOME`, else `~/.cache/pugc`.

    Raises StorageError for a relative path: commands go to the project's folder, so it would name two places.
    """
    if own := os.environ.get("PUGC_CACHE"):
        place = Path(os.path.expanduser(own))
        if not place.is_absolute():
            raise StorageError(
                f"PUGC_CACHE = {own!r} is not an absolute path", fix=f"export PUGC_CACHE={Path.cwd() / own}"
            )
        return place
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of XDG has relative paths ignored.
    return Path(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache")) / "pugc"


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `made` should have made, missing files for example; None for a whole one."""
    if not folder.is_dir():
        return f"not in {folder.parent}"
    try:
        sizes: dict[str, int] = json.loads((folder / _MARK).read_bytes())
    except (OSError, ValueError):
        return f"{folder} was not finished"
    for name, size in sizes.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            return f"{file} {'is missing' if found is None else f'has {found:,} bytes of {size:,}'}"
    return None


def made(name: str, size: int, build: Callable[[Path], Path], say: Say) -> Path:
    """The folder `name` of the cache. Where it is not there whole, `build` makes it: it is given an empty folder to
    work in, and returns the finished folder somewhere inside. `size` is the room in bytes that this takes.

    Raises StorageError when there is no room or the cache cannot be written, and what `build` raises.
    """
    place = root()
    target = place / name
    if damage(target) is None:
        return target
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(name, say) as alone:
            if (fault := damage(target)) is None:  # made while we waited
                return target
            if alone:
                _sweep(name)
            if target.exists():
                say(f"{fault}: it is made again")
                shutil.rmtree(target)
            _make_room(place, size)
            work = place / f".{name}.{uuid.uuid4().hex[:8]}.part"
            work.mkdir()
            try:
                finished = build(work)
                _finish(finished)
                try:
                    finished.rename(target)
                except OSError:
                    if damage(target) is not None:  # else another process, on a disk without locks, was faster
                        raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(size) from err
        raise StorageError(
            f"cannot write the cache {place}: {err.strerror or err}", fix=f"make it writable, or {_ELSEWHERE}"
        ) from err
    return target


def no_room(size: int) -> StorageError:
    """The error that says how much room is needed, and where."""
    place = root()
    free = shutil.disk_usage(place).free
    return StorageError(
        f"no space in {place}: {_mb(size)} MB are needed, {_mb(free)} MB are free", fix=f"free some, or {_ELSEWHERE}"
    )


def prune(keep: set[str]) -> list[Path]:
    """Remove the folders that other versions of PUGC made, with what killed ones left; returns the folders. Those that
    another process is making are left alone."""
    place = root()
    found = sorted(place.iterdir()) if place.is_dir() else []
    names = {match.group(1) for path in found if (match := _MADE_HERE.fullmatch(path.name))}
    removed = []
    for name in sorted(names - keep):
        with _alone(name, None) as alone:
            if alone:
                _sweep(name)
                if (place / name).exists():
                    shutil.rmtree(place / name)
                    removed.append(place / name)
                (place / f".{name}.lock").unlink(missing_ok=True)
    return removed


def _make_room(place: Path, size: int) -> None:
    if shutil.disk_usage(place).free < size:
        raise no_room(size)


@contextmanager
def _alone(name: str, say: Say | None) -> Iterator[bool]:
    """Holds the lock of a folder's name, which goes with the process, however it ends. False on a disk without locks,
    and, without `say`, where another process holds it; with it, waits for that one."""
    handle = os.open(root() / f".{name}.lock", os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if held := say is not None:
                assert say is not None
                say(f"another process is making {name}: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def _sweep(name: str) -> None:
    """Remove what killed processes left."""
    for left in root().glob(f".{name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _finish(folder: Path) -> None:
    """Everybody may read it, its mark says what is in it, and all of it is on the disk."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    mark = folder / _MARK
    mark.write_text(json.dumps({p.name: p.stat().st_size for p in files}, indent=1), encoding="utf-8")
    for file in (*files, mark):
        file.chmod(0o644)
        _to_disk(file)
    folder.chmod(0o755)
    _to_disk(folder)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"
