"""The ledger: ask a model once. Every generation ever made, raw, content-addressed, append-only.

One folder per model holds immutable Parquet part files, each written whole by one writer. A key that stands in two
parts is harmless: equal keys mean equal requests, and the first answer found wins. That makes the ledger safe with
concurrent writers and lets small parts be merged at any time: the merged part is complete before a small one goes,
and a reader that misses a file looks at the folder again.

A part that turns out to be damaged is moved into the folder `damaged` beside it, with a warning, and what it held is
asked for again. Pages carry the checksums of Parquet, rows one of their own, since nothing checks what a file's footer
says of where its pages are.

A background thread writes what has arrived every second, so a killed process loses at most that second and the
requests in flight. In memory there are 16 bytes per stored generation of the models in use (the index: the first 8
bytes of the key and where the row is); texts stay on disk until a shard asks for them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pugc_core import storage
from pugc_core.engines.base import Generation
from pugc_core.errors import StorageError
from pugc_core.ledger.rows import as_table, as_written, better, checked

ROW_GROUP = 2048
"""Rows per row group: the unit that is read to look one answer up."""
SMALL = 16_384
"""Parts with fewer rows are merged once there are MANY of them."""
MANY = 64
_CACHED_GROUPS = 16
DAMAGED = "damaged"
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError)
"""What reading a damaged part can raise, besides that it is not there."""

log = logging.getLogger("pugc")


class _DamagedError(Exception):
    """A part that cannot be read, or holds a row that was not written so. Its arguments: the part's name, and why."""


class Ledger:
    """Answers by key, under `root` (any fsspec path). Use as a context manager, or call `close`.

    `flush_seconds` bounds what a crash can lose besides the requests in flight.
    """

    def __init__(self, root: str, *, flush_seconds: float = 1.0) -> None:
        self.root = root
        self._flush_seconds = flush_seconds
        self._shelves: dict[str, _Shelf] = {}
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._failure: Exception | None = None
        self._flusher: threading.Thread | None = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def find(self, model: str, keys: Sequence[bytes]) -> dict[bytes, Generation]:
        """The stored generations among `keys`, by key."""
        with self._lock:
            return self._shelf(model).find(keys)

    def refresh(self) -> None:
        """Take notice of what other processes have written since; what this one writes it knows anyway."""
        with self._lock:
            for shelf in self._shelves.values():
                shelf.refresh()

    def add(self, model: str, generations: Iterable[Generation]) -> None:
        """Take generations in; they are on disk within `flush_seconds`. Raises the StorageError of a failed write."""
        with self._lock:
            self._shelf(model).pending.extend(generations)
            if self._flusher is None:
                self._wake.clear()
                self._flusher = threading.Thread(target=self._flush_regularly, name="ledger-flush", daemon=True)
                self._flusher.start()
            self._raise_failure()  # last, so that what came with this call is kept too

    def flush(self) -> None:
        """Write everything taken in so far. What cannot be written stays in memory and is tried again next time."""
        with self._lock:
            for shelf in self._shelves.values():
                shelf.flush()
            self._failure = None

    def close(self) -> None:
        """Write what is left, merge small parts, stop the writer thread."""
        flusher, self._flusher = self._flusher, None
        self._wake.set()
        if flusher is not None:
            flusher.join()
        self.flush()
        with self._lock:
            for shelf in self._shelves.values():
                shelf.merge()
            self._shelves.clear()

    def _shelf(self, model: str) -> _Shelf:
        if model not in self._shelves:
            self._shelves[model] = _Shelf(storage.join(self.root, folder_of(model)))
        return self._shelves[model]

    def _flush_regularly(self) -> None:
        while not self._wake.wait(self._flush_seconds):
            try:
                self.flush()
            except Exception as err:  # told to the caller at its next call, in its own thread
                self._failure = err

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


def folder_of(model: str) -> str:
    """The folder name of a model identity: readable, and unique by a piece of its hash."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", model).strip("._")[:60]
    return f"{readable}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


class _Shelf:
    """One model's part files and their index."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pending: list[Generation] = []
        self._writer = uuid.uuid4().hex[:12]
        self._passed_over: set[str] = set()
        self._reset()
        self.refresh()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Generation]:
        wanted = set(keys)
        found = {g.key: g for g in self.pending if g.key in wanted}
        left = [key for key in keys if key not in found]
        attempts = 0
        while True:  # every turn but three has one part less
            try:
                return found | self._read(left)
            except _DamagedError as damage:
                self._set_aside(*damage.args)
            except FileNotFoundError:  # another process merged parts meanwhile
                attempts += 1
                if attempts == 3:
                    raise StorageError(f"ledger parts vanish while being read: {self.folder}") from None
            self._reset()
            self.refresh()

    def flush(self) -> None:
        if not self.pending:
            return
        rows = list(self.pending)
        name = self._write(as_table(rows))
        del self.pending[: len(rows)]
        self._index([name], [[g.key for g in rows]])
        if sum(self._sizes[part] < SMALL for part in self._parts) >= 4 * MANY:
            self.merge()

    def merge(self) -> None:
        """Replace many small parts by one; the rows keep their order, so a shard's answers stay together."""
        small = [name for name in self._parts if self._sizes[name] < SMALL]
        if len(small) < MANY:
            return
        tables = []
        for name in list(small):
            try:
                rows = self._rows(name, self._table(name))
            except FileNotFoundError:
                small.remove(name)
            except _DamagedError as damage:
                self._set_aside(*damage.args)
                small.remove(name)
            else:
                tables.append(as_table(rows))
        if not tables:
            return
        self._write(pa.concat_tables(tables))
        for name in small:
            storage.delete(storage.join(self.folder, name))
        self._reset()
        self.refresh()

    def _set_aside(self, name: str, why: str) -> None:
        """Move a damaged part out of the way. Where that cannot be done it is passed over as long as this lasts."""
        path, aside = (storage.join(self.folder, *place) for place in ((name,), (DAMAGED, name)))
        self._passed_over.add(name)
        done = f"it is now {aside}"
        try:
            storage.move(path, aside)
        except FileNotFoundError:  # another process was quicker
            return
        except StorageError as err:
            done = f"it stays where it is ({err.problem})"
        log.warning(
            "ledger part %s is damaged (%s); %s, and what only it held is asked for again", path, why[:300], done
        )

    def _write(self, table: pa.Table) -> str:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)
        # Names sort by time, so that the index of a later process is in the same order.
        name = f"{time.time_ns():020d}-{self._writer}.parquet"
        storage.write(storage.join(self.folder, name), buffer.getvalue())
        return name

    def _table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        path = storage.join(self.folder, name)
        data = storage.read(path)
        try:
            # Without threads, which may outlive the interpreter at its exit and abort it.
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            return checked(file.read(columns=columns, use_threads=False))
        except _DAMAGE as err:
            raise _DamagedError(name, f"{type(err).__name__}: {err}") from err

    def _reset(self) -> None:
        self._parts: list[str] = []
        self._sizes: dict[str, int] = {}
        self._files: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._sorted = np.empty(0, dtype=np.uint64)
        self._places = np.empty(0, dtype=np.uint64)
        self._fresh: dict[bytes, tuple[int, int]] = {}

    def refresh(self) -> None:
        known = {*self._parts, *self._passed_over}
        names, keys, missed = [], [], False
        for name in storage.names(self.folder, ".parquet"):
            if name in known:
                continue
            try:
                column = self._table(name, ["key"]).column("key")
            except FileNotFoundError:  # merged since the folder was listed, into a part that the list lacks
                missed = True
                continue
            except _DamagedError as damage:
                self._set_aside(*damage.args)
                continue
            names.append(name)
            keys.append(column.to_pylist())
        if names:
            self._take_in(names, keys)
        if missed:
            self.refresh()

    def _take_in(self, names: Sequence[str], keys: Sequence[Sequence[bytes]]) -> None:
        first = len(self._parts)
        for name, column_keys in zip(names, keys, strict=True):
            self._parts.append(name)
            self._sizes[name] = len(column_keys)
        prefixes = np.frombuffer(b"".join(k[:8] for column in keys for k in column), dtype=">u8").astype(np.uint64)
        places = np.concatenate(
            [np.arange(len(c), dtype=np.uint64) + np.uint64((first + i) << 32) for i, c in enumerate(keys)]
        )
        prefixes = np.concatenate([self._sorted, prefixes])
        places = np.concatenate([self._places, places])
        order = np.argsort(prefixes, kind="stable")
        self._sorted, self._places = prefixes[order], places[order]

    def _index(self, names: list[str], keys: list[list[bytes]]) -> None:
        # A dict for what this process wrote: sorting the whole index every second would not scale.
        for name, part_keys in zip(names, keys, strict=True):
            part = len(self._parts)
            self._parts.append(name)
            self._sizes[name] = len(part_keys)
            self._fresh.update((key, (part, row)) for row, key in enumerate(part_keys))

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Generation]:
        places: dict[tuple[int, int], list[tuple[int, bytes]]] = {}

        def note(part: int, row: int, key: bytes) -> None:
            places.setdefault((part, row // ROW_GROUP), []).append((row % ROW_GROUP, key))

        older = []
        for key in keys:
            if key in self._fresh:
                note(*self._fresh[key], key)
            else:
                older.append(key)
        if older and len(self._sorted):
            prefixes = np.frombuffer(b"".join(k[:8] for k in older), dtype=">u8").astype(np.uint64)
            left = np.searchsorted(self._sorted, prefixes, side="left")
            right = np.searchsorted(self._sorted, prefixes, side="right")
            for key, low, high in zip(older, left.tolist(), right.tolist(), strict=True):
                for place in self._places[low:high].tolist():
                    note(place >> 32, place & 0xFFFFFFFF, key)
        found: dict[bytes, Generation] = {}
        for (part, group), rows in sorted(places.items()):
            table = self._group(part, group)
            if max(row for row, _ in rows) >= len(table):
                raise _DamagedError(self._parts[part], "it has fewer rows than keys")
            taken = table.take([row for row, _ in rows])
            for generation, (_, key) in zip(self._rows(self._parts[part], taken), rows, strict=True):
                if generation.key == key and better(generation, found.get(key)):
                    found[key] = generation
        return found

    def _rows(self, name: str, table: pa.Table) -> list[Generation]:
        try:
            return as_written(table)
        except _DAMAGE as err:
            raise _DamagedError(name, str(err)) from err

    def _group(self, part: int, group: int) -> pa.Table:
        if (part, group) not in self._files:
            name = self._parts[part]
            fs, inner = storage.filesystem(storage.join(self.folder, name))
            try:
                with fs.open(inner, "rb") as handle:
                    file = pq.ParquetFile(handle, page_checksum_verification=True)
                    self._files[part, group] = checked(file.read_row_group(group, use_threads=False))
            except FileNotFoundError:
                raise
            except _DAMAGE:
                # Damaged, or not to be reached just now: the whole file, read first and parsed then, tells which.
                self._files[part, group] = self._table(name).slice(group * ROW_GROUP, ROW_GROUP)
            if len(self._files) > _CACHED_GROUPS:
                self._files.popitem(last=False)
        self._files.move_to_end((part, group))
        return self._files[part, group]
