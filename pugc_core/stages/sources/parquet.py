"""Parquet: a row per record, whatever else the columns hold."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pugc_core.errors import SourceError
from pugc_core.stages.sources import files, limits
from pugc_core.stages.sources.rows import RAW_CHARS, Raw

_BATCH = 512


def read(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    most, written, number = files.most_unpacked(path), 0, 0
    for batch in _batches(path, data, most):
        sizes = _sizes(batch)
        written += sum(sizes)
        if written > most:
            raise files.refuse_bomb(path, most)
        # One value can stand for many rows, so that these are made one by one where together they would be too much.
        step = _BATCH if sum(sizes) <= limits.LONGEST_ROW else 1
        for start in range(0, batch.num_rows, step):
            fits = step > 1 or sizes[start] <= limits.LONGEST_ROW
            for fields in _rows(batch.slice(start, step)) if fits else [None]:
                number += 1
                yield Raw(number, None, limits.too_long(), "") if fields is None else _raw(number, fields)


def _batches(path: str, data: io.BufferedReader, most: int) -> Iterator[pa.RecordBatch]:
    """Text stands in dictionaries, each value once however often the file repeats it."""
    file = pq.ParquetFile(data)
    schema, meta = file.schema_arrow, file.metadata
    if wide := limits.too_wide(len(schema)):
        raise SourceError(f"{path}: {wide}", fix="keep the columns that describe posts, drop the others")
    groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
    # Rows of nothing cost no bytes at all, and posts cost more than one.
    if max(sum(group.total_byte_size for group in groups), meta.num_rows) > most:
        raise files.refuse_bomb(path, most)
    nested = [c for g in groups for c in map(g.column, range(g.num_columns)) if "." in c.path_in_schema]
    largest = max((chunk.total_uncompressed_size for chunk in nested), default=0)
    size = max(16, min(_BATCH, limits.ALWAYS_UNPACKED // max(1, largest)))
    text = [field.name for field in schema if _is_text(field.type)]
    data.seek(0)
    yield from pq.ParquetFile(data, read_dictionary=text).iter_batches(batch_size=size)


def _is_text(kind: pa.DataType) -> bool:
    return any(is_(kind) for is_ in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _sizes(batch: pa.RecordBatch) -> list[int]:
    """Bytes of each row, as near as they can be told without making it: text to the letter, the rest spread evenly."""
    rest = 0
    total = pa.array([0] * batch.num_rows, pa.int64())
    for column in batch.columns:
        if pa.types.is_dictionary(column.type) and (
            _is_text(column.type.value_type) or pa.types.is_large_binary(column.type.value_type)
        ):
            lengths = pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices)
            total = pc.add(total, pc.fill_null(lengths, 0))
        else:
            rest += column.nbytes
    each = rest // max(1, batch.num_rows)
    sizes: list[int] = pc.add(total, each).to_pylist()
    return sizes


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = {name: _plain(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    values = [_cells(column) for column in columns.values()]
    for cells in zip(*values, strict=True):
        yield dict(zip(columns, cells, strict=True))


def _raw(number: int, fields: dict[str, Any]) -> Raw:
    name, bad = next(((name, cell) for name, cell in fields.items() if isinstance(cell, Exception)), ("", None))
    if bad is None:
        return Raw(number, fields, None, "")
    why = f"not UTF-8: column {name}" if isinstance(bad, UnicodeDecodeError) else f"column {name}: {files.words(bad)}"
    return Raw(number, None, why, _rest(fields))


def _plain(column: Any) -> Any:
    """Times as text, the same on every machine: with a zone they are UTC. Dictionaries as what they stand for."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz:
        return pc.binary_join_element_wise(column.cast(pa.timestamp(kind.unit)).cast(pa.string()), "Z", "")
    return column.cast(pa.string()) if pa.types.is_temporal(kind) else column


def _cells(column: Any) -> list[Any]:
    """The column's values; where one cannot be had, its error in its place."""
    try:
        values: list[Any] = column.to_pylist()
    except Exception:  # text that is not UTF-8, times beyond Python's: each type has its own
        values = [_cell(cell) for cell in column]
    return values


def _cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except Exception as err:
        return err


def _rest(fields: dict[str, Any]) -> str:
    """What can be read of a row with cells that cannot."""
    bad = {name: _readable(cell) for name, cell in fields.items() if isinstance(cell, Exception)}
    return orjson.dumps({**fields, **bad}, default=str).decode()[:RAW_CHARS]


def _readable(err: Exception) -> str | None:
    return err.object.decode("utf-8", "replace") if isinstance(err, UnicodeDecodeError) else None
