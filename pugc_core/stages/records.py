"""One typed schema per stage table. Rows never vanish: every table carries `keep` and `drop_reason`.

Tables are polars frames in memory and zstd Parquet on disk. Ids are content hashes (16 hex digits), so that joins are
by id and the same content has the same id in every shard and recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from pugc_core.errors import StorageError


def make_id(*parts: object) -> str:
    """Sixteen hex digits over the parts, in order."""
    return hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).hexdigest()[:16]


class Column(NamedTuple):
    """A column's type and what it means, in words shown in the web UI."""

    dtype: pl.DataType
    meaning: str


class Counts(NamedTuple):
    """in = kept + dropped, with the reasons of the dropped."""

    rows_in: int
    kept: int
    dropped: dict[str, int]

    def __add__(self, other: Counts) -> Counts:  # type: ignore[override]
        reasons = {r: self.dropped.get(r, 0) + other.dropped.get(r, 0) for r in {**self.dropped, **other.dropped}}
        return Counts(self.rows_in + other.rows_in, self.kept + other.kept, reasons)


NOTHING = Counts(0, 0, {})
ALL = "_all"
"""Where a stage has one table over all shards, this stands in the place of a shard's name; no shard is called so."""


@dataclass(frozen=True)
class Table:
    """The schema of one stage's table. `key` is unique among the kept rows."""

    name: str
    key: str
    columns: Mapping[str, Column]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        return {name: column.dtype for name, column in self.columns.items()}

    def frame(self, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
        """Rows as a frame of exactly this schema; a missing key or a wrong type is an error, an extra key too."""
        data = list(rows)
        for row in data:
            if row.keys() != self.columns.keys():
                wrong = sorted(row.keys() ^ self.columns.keys())
                raise StorageError(f"row of table {self.name} with missing or extra columns: {', '.join(wrong)}")
        return pl.DataFrame(data, schema=self.schema, orient="row")

    def check(self, frame: pl.DataFrame) -> None:
        """Raise StorageError unless the frame has this schema, a reason on every dropped row and unique kept keys."""
        if dict(frame.schema) != self.schema:
            raise StorageError(f"table {self.name} has schema {dict(frame.schema)}, expected {self.schema}")
        dropped = ~frame["keep"]
        if frame.filter(dropped & pl.col("drop_reason").is_null()).height:
            raise StorageError(f"table {self.name} drops rows without a reason")
        kept = frame.filter(pl.col("keep"))
        if kept.filter(pl.col("drop_reason").is_not_null()).height:
            raise StorageError(f"table {self.name} keeps rows that have a drop reason")
        if kept[self.key].n_unique() != kept.height:
            twice = kept.filter(pl.col(self.key).is_duplicated())[self.key].unique().sort().to_list()
            raise StorageError(f"table {self.name} has {self.key} twice: {', '.join(twice[:5])}")

    def count(self, frame: pl.DataFrame) -> Counts:
        dropped = frame.filter(~pl.col("keep")).group_by("drop_reason").len().sort("drop_reason")
        return Counts(frame.height, int(frame["keep"].sum()), dict(dropped.iter_rows()))


def define(name: str, key: str, columns: Sequence[tuple[str, pl.DataType, str]]) -> Table:
    """A stage's table of these columns (name, type, meaning), and the two that every table has."""
    verdict = (
        ("keep", pl.Boolean(), "whether the row goes on to the next stage"),
        ("drop_reason", pl.String(), "why not; null for kept rows"),
    )
    return Table(name, key, {c: Column(dtype, meaning) for c, dtype, meaning in (*columns, *verdict)})


ORIGIN_COLUMNS: Sequence[tuple[str, pl.DataType, str]] = [
    ("source", pl.String(), "where the post was published"),
    ("author", pl.String(), "who wrote the post"),
    ("url", pl.String(), "where the post can be read"),
    ("license", pl.String(), "under which licence the post stands, as its source says"),
]
"""What goes with a post's content wherever it goes."""
ORIGIN = tuple(name for name, _, _ in ORIGIN_COLUMNS)
