"""Stage tables on disk: one zstd Parquet file per recipe, stage and shard, whose footer says what it was made from.

The footer carries the fingerprint of what shaped the table, the content hashes of its inputs, its own content hash,
and its counts. Everything about a table but its rows is read from there, without touching the rows, and no clock
enters it: the same inputs and answers give the same bytes. A footer carries a checksum of itself.

A shard that could not be made has an empty table whose footer says why. What is made from it is empty too.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pugc_core import storage
from pugc_core.errors import StorageError
from pugc_core.file_cache import cached
from pugc_core.stages import STAGES, of_node
from pugc_core.stages.measures import Measures
from pugc_core.stages.records import Counts

_FOOTER_KEY = b"pugc"
_DAMAGE = (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError, TypeError)
"""What reading a damaged file, or one of another version, can raise."""


@dataclass(frozen=True)
class Footer:
    """What a table says about itself."""

    stage: str
    shard: str
    fingerprint: Mapping[str, str]
    inputs: Mapping[str, str]
    """Content hash by input table (for `ugc`: of the source file)."""
    content: str
    """Hash of the rows, independent of how they are laid out in the file."""
    rows_in: int
    kept: int
    dropped: Mapping[str, int]
    measures: Measures = field(default_factory=dict)
    """Sums over the rows, see `pugc_core.stages.measures`."""
    format: int = 1
    """Which measures it has (`Stage.format`); tables with others are made again, which costs no calls."""
    failed: str = ""
    """Why the shard could not be made, and how to fix it. Its table is then empty."""

    @property
    def counts(self) -> Counts:
        return Counts(self.rows_in, self.kept, dict(self.dropped))

    def made_from(self, fingerprint: Mapping[str, str], inputs: Mapping[str, str]) -> bool:
        """Whether the table is what these would give again. What failed may succeed next time."""
        same = dict(self.fingerprint) == dict(fingerprint) and dict(self.inputs) == dict(inputs)
        return same and self.format == of_node(self.stage).format and not self.failed


def make_footer(
    frame: pl.DataFrame, stage: str, shard: str, fingerprint: Mapping[str, str], inputs: Mapping[str, str]
) -> Footer:
    """The footer of a new table. Raises StorageError when the frame breaks the stage's schema."""
    table = of_node(stage).table
    table.check(frame)
    rows_in, kept, dropped = table.count(frame)
    return Footer(
        stage,
        shard,
        dict(fingerprint),
        dict(inputs),
        content_hash(frame),
        rows_in,
        kept,
        dropped,
        {name: value for name, value in of_node(stage).measure(frame).items() if value},
        of_node(stage).format,
    )


def failed_footer(
    stage: str, shard: str, fingerprint: Mapping[str, str], inputs: Mapping[str, str], why: str
) -> Footer:
    """The footer of the empty table of a shard that could not be made."""
    return replace(make_footer(of_node(stage).table.frame([]), stage, shard, fingerprint, inputs), failed=why)


def content_hash(frame: pl.DataFrame) -> str:
    """Sixteen hex digits over column names and values, row by row."""
    return hashlib.sha256(frame.write_ndjson().encode()).hexdigest()[:16]


def file_hash(path: str) -> str:
    """Sixteen hex digits over a file's bytes. Raises FileNotFoundError."""
    fs, inner = storage.filesystem(path)
    digest = hashlib.sha256()
    with fs.open(inner, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


_FIELDS = " ".join(field.name for field in fields(Footer))


def _sealed(footer: Footer) -> str:
    """A footer as JSON, with a checksum of itself."""
    content = asdict(footer)
    return json.dumps({**content, "checksum": _checksum(content)}, sort_keys=True)


def _opened(text: bytes) -> Footer:
    """The footer in a file. Raises ValueError when it is not what was written; those of before have no checksum."""
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop("checksum", None) not in (None, _checksum(content)):
        raise ValueError("its footer is damaged")
    return Footer(**content)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Store:
    """The tables of all recipes under one root (any fsspec path)."""

    root: str

    def path(self, recipe: str, stage: str, shard: str) -> str:
        return storage.join(self.root, recipe, stage, f"{shard}.parquet")

    def shards(self, recipe: str, stage: str) -> list[str]:
        return [n.removesuffix(".parquet") for n in storage.names(storage.join(self.root, recipe, stage), ".parquet")]

    def write(self, recipe: str, frame: pl.DataFrame, footer: Footer) -> None:
        """Write a table whole, or not at all."""
        arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        arrow = arrow.replace_schema_metadata({_FOOTER_KEY: _sealed(footer)})
        buffer = io.BytesIO()
        pq.write_table(arrow, buffer, compression="zstd", write_page_checksum=True)
        storage.write(self.path(recipe, footer.stage, footer.shard), buffer.getvalue())

    def footers(self, recipe: str, stage: str) -> dict[str, Footer]:
        """The footers of all tables of a stage by shard, sorted. A damaged table is left out, as if it were not there.

        Remembered by each file's size, time and inode, so that only files that changed are opened.
        """

        def read(name: str) -> str | None:
            try:
                footer = self.footer(recipe, stage, name.removesuffix(".parquet"))
            except StorageError:
                return None
            return json.dumps(asdict(footer)) if footer else None

        folder = storage.join(self.root, recipe, stage)
        found = cached(folder, storage.join(folder, ".footers"), read, suffix=".parquet", kind=_FIELDS)
        return {name.removesuffix(".parquet"): Footer(**orjson.loads(text)) for name, text in found.items()}

    def footer(self, recipe: str, stage: str, shard: str) -> Footer | None:
        """The footer of a table; None when there is no table."""
        path = self.path(recipe, stage, shard)
        fs, inner = storage.filesystem(path)
        try:
            with fs.open(inner, "rb") as handle:
                metadata = pq.read_schema(handle).metadata or {}
            return _opened(metadata[_FOOTER_KEY])
        except FileNotFoundError:
            return None
        except KeyError:
            raise _unreadable(path, "it has no PUGC footer") from None
        except _DAMAGE as err:
            raise _unreadable(path, err) from err

    def columns(self, recipe: str, stage: str, shard: str) -> list[str]:
        """The columns that a table has on disk; none when it is damaged or not there."""
        fs, inner = storage.filesystem(self.path(recipe, stage, shard))
        try:
            with fs.open(inner, "rb") as handle:
                return list(pq.read_schema(handle).names)
        except _DAMAGE:
            return []

    def read(self, recipe: str, stage: str, shard: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of a table, all columns or those named; null in columns that its version did not have. Raises
        StorageError when there is none or it is damaged."""
        path = self.path(recipe, stage, shard)
        schema = of_node(stage).table.schema
        wanted = {name: schema[name] for name in columns or schema}
        try:
            data = pa.BufferReader(storage.read(path))
            older = not wanted.keys() <= set(pq.read_schema(data).names)
            arrow = pq.read_table(data, page_checksum_verification=True, columns=None if older else list(wanted))
            frame = pl.DataFrame(arrow.replace_schema_metadata(None))
            if older:
                # A name that was damaged looks like a column that is not there; but the rows are those that were made.
                frame = frame.cast({name: schema[name] for name in frame.columns if name in schema})
                if _opened(arrow.schema.metadata[_FOOTER_KEY]).content != content_hash(frame):
                    raise ValueError(f"it lacks {', '.join(sorted(wanted.keys() - set(frame.columns)))}")
                frame = frame.with_columns(pl.lit(None).alias(n) for n in wanted if n not in frame.columns)
            return frame.select(list(wanted)).cast(wanted)  # type: ignore[arg-type]
        except FileNotFoundError:
            raise StorageError(
                f"no table {stage} for shard {shard} of recipe {recipe} ({path})",
                fix=f"pugc run --recipe {recipe} --shard {shard} --to {stage}",
            ) from None
        except _DAMAGE as err:
            raise _unreadable(path, err) from err


@dataclass(frozen=True)
class Tables:
    """The tables of one recipe: its own, and those that it shares with a recipe it extends."""

    store: Store
    recipe: str
    owners: Mapping[str, str] = field(default_factory=dict)
    """The recipe in whose folder a stage's tables lie, by stage: of all stages that the recipe has. Empty means all
    stages there are, in the folder of `recipe` itself."""

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes that have tables, in run order."""
        return tuple(self.owners or STAGES)

    def owner(self, stage: str) -> str:
        return self.owners.get(stage, self.recipe)

    def path(self, stage: str, shard: str) -> str:
        return self.store.path(self.owner(stage), stage, shard)

    def shards(self, stage: str) -> list[str]:
        return self.store.shards(self.owner(stage), stage)

    def write(self, frame: pl.DataFrame, footer: Footer) -> None:
        self.store.write(self.owner(footer.stage), frame, footer)

    def footers(self, stage: str) -> dict[str, Footer]:
        return self.store.footers(self.owner(stage), stage)

    def footer(self, stage: str, shard: str) -> Footer | None:
        return self.store.footer(self.owner(stage), stage, shard)

    def columns(self, stage: str, shard: str) -> list[str]:
        return self.store.columns(self.owner(stage), stage, shard)

    def read(self, stage: str, shard: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        return self.store.read(self.owner(stage), stage, shard, columns)


def _unreadable(path: str, why: object) -> StorageError:
    return StorageError(
        f"table {path} is not readable: {why}", fix="delete the file and run the stage again; it costs no calls"
    )


@dataclass(frozen=True)
class Loaded:
    """One shard's table, read when its rows are asked for; its footer is always at hand."""

    store: Store
    recipe: str
    stage: str
    shard: str

    @cached_property
    def footer(self) -> Footer:
        footer = self.store.footer(self.recipe, self.stage, self.shard)
        if footer is None:
            self.store.read(self.recipe, self.stage, self.shard)  # raises the error that says what to run
            raise AssertionError("unreachable")
        return footer

    def frame(self) -> pl.DataFrame:
        return self.store.read(self.recipe, self.stage, self.shard)
