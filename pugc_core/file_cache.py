"""What was once read from the files of a folder, remembered for as long as they do not change.

A cache and nothing else: a small file that may be deleted at any time, or be written by two processes at once. It
begins with a checksum of the rest, so that one that was damaged is passed over and written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from pugc_core import storage
from pugc_core.errors import StorageError

_SCHEMA = {"name": pl.String(), "signature": pl.String(), "value": pl.String()}
_CHECKSUM_BYTES = 32
_SETTLED = 2.0
"""Seconds after which a file's time of change tells; a younger file may change again without showing it."""


def cached(
    folder: str,
    place: str,
    read: Callable[[str], str | None],
    *,
    suffix: str = "",
    kind: str = "",
    clock: Callable[[], float] = time.time,
) -> dict[str, str]:
    """`read(name)` for every file of `folder` that ends in `suffix`, by name, sorted; those that give None left out.

    Files whose signature is the one remembered at `place` are not read. `kind` says what the values are: what was
    remembered under another kind, as another version of this program may have done, is not used.
    """
    signatures = storage.signatures(folder, suffix)
    known = _load(place, kind)
    unread = [name for name, signature in signatures.items() if known.get(name, ("", ""))[0] != signature]
    now = clock()
    with ThreadPoolExecutor(8) as pool:
        fresh = dict(zip(unread, pool.map(read, unread), strict=True))
    values = {name: known[name][1] for name in signatures if name not in fresh} | {
        name: value for name, value in fresh.items() if value is not None
    }
    settled = {name: s for name, s in signatures.items() if name in values and not _young(s, now)}
    if settled.keys() != known.keys() or any(name in settled for name in fresh):
        _save(place, kind, [(name, signature, values[name]) for name, signature in settled.items()])
    return {name: values[name] for name in signatures if name in values}


def _young(signature: str, now: float) -> bool:
    # Local signatures alone have a time here; objects change only as a whole, and get another tag.
    parts = signature.split(" ")
    local = len(parts) == 3 and all(part.isdigit() for part in parts)
    return local and int(parts[1]) / 1e9 > now - _SETTLED


def _load(place: str, kind: str) -> dict[str, tuple[str, str]]:
    try:
        data = storage.read(place)
    except (FileNotFoundError, StorageError):
        return {}
    checksum, rows = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if checksum != _checksum(kind, rows):
        return {}
    frame = pl.read_parquet(io.BytesIO(rows))
    return {name: (signature, value) for name, signature, value in frame.select(list(_SCHEMA)).iter_rows()}


def _save(place: str, kind: str, rows: list[tuple[str, str, str]]) -> None:
    buffer = io.BytesIO()
    pl.DataFrame(rows, schema=_SCHEMA, orient="row").write_parquet(buffer)
    with contextlib.suppress(StorageError):  # a cache that cannot be kept is none
        storage.write(place, _checksum(kind, buffer.getvalue()) + buffer.getvalue())


def _checksum(kind: str, rows: bytes) -> bytes:
    return hashlib.sha256(kind.encode() + b"\0" + rows).digest()
