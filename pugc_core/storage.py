"""Bytes on any fsspec path: local folders, s3://, gs://, memory://. Whole files only, visible at once or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pugc_core.errors import StorageError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_ABANDONED = 3600.0
"""Seconds after which a temporary file is one that a killed process left."""
_swept: set[Path] = set()


def join(root: str, *parts: str) -> str:
    """`root/parts...`, for URLs and local paths alike."""
    return "/".join((root.rstrip("/"), *parts))


def filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path and the path within it. Credentials come from the environment, as fsspec reads them."""
    try:
        # Without the drivers' own cache of listings: other processes write and merge files, and must be seen.
        fs, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
    except ImportError as err:
        raise StorageError(f"no driver for {path}: {err}", fix="pip install s3fs (or gcsfs, adlfs ...)") from err
    return fs, inner


def write(path: str, data: bytes) -> None:
    """Write a whole file atomically: local files by temporary name, fsync and rename; object stores by one put.

    Raises StorageError naming the file, with the fix, when the disk is full or the place cannot be written.
    """
    fs, inner = filesystem(path)
    try:
        if isinstance(fs, LocalFileSystem):
            _write_local(Path(inner), [data])
        else:
            fs.pipe_file(inner, data)
    except Exception as err:  # drivers of object stores have errors of their own beside OSError
        raise StorageError(f"cannot write {path}: {_words(err)}", fix=_advice(err)) from err


def _write_local(target: Path, blocks: Iterable[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.parent not in _swept:  # once per process
        _swept.add(target.parent)
        sweep(target.parent)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with temporary.open("wb") as handle:
            handle.writelines(blocks)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Delete the temporary files that killed processes left in a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # another process was quicker
                    if time.time() - entry.stat().st_mtime > _ABANDONED:
                        os.unlink(entry)


def _words(err: Exception) -> str:
    return getattr(err, "strerror", None) or str(err) or type(err).__name__


def _advice(err: Exception) -> str:
    number = getattr(err, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "free disk space and run the same command again; what is written so far is kept"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable, or set PUGC_DATA to another place"
    return "check the path and its permissions"


def read(path: str) -> bytes:
    """The whole file. Raises FileNotFoundError when there is none, StorageError when it cannot be read."""
    fs, inner = filesystem(path)
    try:
        return bytes(fs.cat_file(inner))
    except FileNotFoundError:
        raise
    except Exception as err:
        raise StorageError(f"cannot read {path}: {_words(err)}", fix="check the path and its permissions") from err


def exists(path: str) -> bool:
    fs, inner = filesystem(path)
    return bool(fs.exists(inner))


def delete(path: str) -> None:
    """Remove a file if it is there."""
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(inner)


def move(path: str, target: str) -> None:
    """Move a file to another place in the same file system. Raises FileNotFoundError when there is none, StorageError
    when it cannot be moved."""
    fs, inner = filesystem(path)
    place = filesystem(target)[1]
    try:
        if isinstance(fs, LocalFileSystem):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        fs.mv(inner, place)
    except FileNotFoundError:
        raise
    except Exception as err:
        raise StorageError(f"cannot move {path}: {_words(err)}", fix=_advice(err)) from err


def irregular(path: str) -> str | None:
    """What stands at a local path if it is no ordinary file, such as "a named pipe"; None for files and for nothing."""
    fs, inner = filesystem(path)
    if not isinstance(fs, LocalFileSystem):
        return None
    try:
        mode = os.stat(inner).st_mode
    except OSError:
        return "a link to nothing" if os.path.islink(inner) else None
    kinds = {
        stat.S_ISDIR: "a directory",
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
        stat.S_ISSOCK: "a socket",
    }
    return next((words for is_, words in kinds.items() if is_(mode)), None)


def irregulars(folder: str) -> dict[str, str]:
    """What stands directly in a local folder beside ordinary files, by name, sorted; hidden ones left out."""
    fs, inner = filesystem(folder)
    if not isinstance(fs, LocalFileSystem) or not os.path.isdir(inner):
        return {}
    with os.scandir(inner) as entries:
        odd = sorted(e.name for e in entries if not e.name.startswith(".") and not e.is_file())
    found = {name: irregular(join(inner, name)) for name in odd}
    return {name: words for name, words in found.items() if words}


def copy(source: str, target: str) -> None:
    """Copy a whole file, so that it is there whole or not at all; between local paths without holding it in memory.

    Raises as `read` and `write` do.
    """
    fs, inner = filesystem(target)
    if not isinstance(fs, LocalFileSystem):
        write(target, read(source))
        return
    origin, there = filesystem(source)
    try:
        with origin.open(there, "rb") as handle:
            _write_local(Path(inner), iter(lambda: handle.read(1 << 20), b""))
    except FileNotFoundError:
        raise
    except OSError as err:
        raise StorageError(f"cannot copy {source} to {target}: {_words(err)}", fix=_advice(err)) from err


def names(folder: str, suffix: str = "") -> list[str]:
    """Names of the files directly in a folder that end in `suffix`, sorted; empty when there is no such folder."""
    return list(signatures(folder, suffix))


def signatures(folder: str, suffix: str = "") -> dict[str, str]:
    """What tells a changed file from an unchanged one without reading it, by name, sorted; hidden files left out.

    Locally size, time of change and inode, else what the object store says of the object.
    """
    fs, inner = filesystem(folder)
    if isinstance(fs, LocalFileSystem):
        found = _local_signatures(inner)
    else:
        fs.invalidate_cache(inner)
        try:
            entries = [e for e in fs.ls(inner, detail=True) if e["type"] == "file"]
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        found = {e["name"].rstrip("/").rsplit("/", 1)[-1]: _object_signature(e) for e in entries}
    wanted = (name for name in found if name.endswith(suffix) and not name.startswith("."))
    return {name: found[name] for name in sorted(wanted)}


def _local_signatures(folder: str) -> dict[str, str]:
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                    if entry.is_file():
                        state = entry.stat()
                        found[entry.name] = f"{state.st_size} {state.st_mtime_ns} {state.st_ino}"
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found


def _object_signature(entry: Mapping[str, Any]) -> str:
    known = ("size", "ETag", "etag", "LastModified", "last_modified", "created", "mtime")
    return " ".join(str(entry[name]) for name in known if name in entry)
