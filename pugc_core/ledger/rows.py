"""Generations as rows of a ledger part, and back: bounded when written, checked when read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from pugc_core.engines.base import Generation

SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(32), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("context", pa.int32(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
    ]
)
"""`context` and `checksum` came later: a part without them is read with 0 and null in their place."""
_LARGEST = 2**31 - 1


def as_table(generations: Sequence[Generation]) -> pa.Table:
    """The rows of a part. Counts beyond what a column holds are cut down to it: one absurd count of a server must not
    keep every other answer from being written."""
    rows = [_bounded(g) for g in generations]
    names = SCHEMA.names[:-1]
    columns = {name: pa.array([getattr(g, name) for g in rows], type=SCHEMA.field(name).type) for name in names}
    return pa.table({**columns, "checksum": pa.array([_checksum(g) for g in rows], type=pa.uint32())}, schema=SCHEMA)


def checked(table: pa.Table) -> pa.Table:
    """A part as it was read, its columns in order. Raises ValueError or KeyError where they are not those of a part."""
    there = [name for name in SCHEMA.names if name in table.column_names]
    for name in there:
        if table.column(name).type != SCHEMA.field(name).type or table.column(name).null_count:
            raise ValueError(f"its column {name} is not {SCHEMA.field(name).type}")
    table.validate(full=True)
    if there == ["key"]:
        return table
    if "context" not in there and "checksum" not in there:
        table = table.append_column("context", pa.repeat(pa.scalar(0, pa.int32()), len(table)))
        table = table.append_column("checksum", pa.nulls(len(table), pa.uint32()))
    return table.select(SCHEMA.names)


def as_written(table: pa.Table) -> list[Generation]:
    """The generations in a checked part. Raises ValueError where a row is not as it was written."""
    found = []
    for values in table.to_pylist():
        checksum = values.pop("checksum")
        generation = Generation(**values)
        if checksum is not None and checksum != _checksum(generation):
            raise ValueError("a row is not as it was written")
        found.append(generation)
    return found


def better(new: Generation, old: Generation | None) -> bool:
    """Of answers under one key the first stands, but a cut one gives way to one made under a larger context."""
    return old is None or (old.finish_reason == "length" and new.context > old.context)


def _bounded(generation: Generation) -> Generation:
    counts = ("prompt_tokens", "completion_tokens", "context")
    return replace(generation, **{name: min(max(getattr(generation, name), 0), _LARGEST) for name in counts})


def _checksum(g: Generation) -> int:
    numbers = f"{g.prompt_tokens} {g.completion_tokens} {g.seed} {g.context}"
    words = "\x1f".join((g.text, g.finish_reason, g.engine, numbers))
    return zlib.crc32(words.encode(), zlib.crc32(g.key))
