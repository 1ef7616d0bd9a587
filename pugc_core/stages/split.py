"""A large file as several shards of a given number of rows, in the same format, row for row."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pugc_core.errors import SourceError
from pugc_core.stages import sources
from pugc_core.stages.sources import jsonl

_LINES = (".jsonl", ".ndjson")


class Part(NamedTuple):
    """A file to be: its name, which gives the shard's, and its bytes."""

    name: str
    data: bytes


def split(path: str, rows: int) -> Iterator[Part]:
    """`posts.jsonl` as `posts-0000.jsonl`, `posts-0001.jsonl` ...; Parquet likewise. Line numbers count anew in each.

    JSON lines are cut by line, unread, so that a broken row is in its part what it was in the whole (packed files come
    out unpacked). Raises SourceError for other formats, and for a file that cannot be read.
    """
    stem = sources.shard_name(path)
    name = path.rsplit("/", 1)[-1].lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(path, stem, rows)
        elif name.removesuffix(".gz").removesuffix(".zst").endswith(_LINES):
            yield from _lines(path, stem, rows)
        else:
            raise SourceError(f"{path} cannot be split", fix="convert it to .jsonl or .parquet, or take it whole")
    except (pa.ArrowException, OSError) as err:
        raise SourceError(f"{path} is damaged: {err}", fix="copy the file here again") from err


def _parquet(path: str, stem: str, rows: int) -> Iterator[Part]:
    with sources.opened(path) as handle:
        waiting: list[pa.RecordBatch] = []
        number = itertools.count()
        for batch in pq.ParquetFile(handle).iter_batches(batch_size=rows):
            # Batches end at row groups, so a part may be put together from several.
            waiting.append(batch)
            while sum(b.num_rows for b in waiting) >= rows:
                table = pa.Table.from_batches(waiting)
                yield _part(stem, next(number), table.slice(0, rows))
                waiting = table.slice(rows).to_batches()
        if sum(b.num_rows for b in waiting):
            yield _part(stem, next(number), pa.Table.from_batches(waiting))


def _part(stem: str, number: int, table: pa.Table) -> Part:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return Part(f"{stem}-{number:04d}.parquet", buffer.getvalue())


def _lines(path: str, stem: str, rows: int) -> Iterator[Part]:
    with sources.opened(path) as data:
        # A line that was cut for its length is still too long.
        written = (line if line.endswith(b"\n") else line + b"\n" for line in jsonl.lines(data) if line.strip())
        for number in itertools.count():
            lines = list(itertools.islice(written, rows))
            if not lines:
                return
            yield Part(f"{stem}-{number:04d}.jsonl", b"".join(lines))
