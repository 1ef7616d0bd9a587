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


def _table(name: str, key: str, columns: Sequence[tuple[str, pl.DataType, str]]) -> Table:
    verdict = (
        ("keep", pl.Boolean(), "whether the row goes on to the next stage"),
        ("drop_reason", pl.String(), "why not; null for kept rows"),
    )
    return Table(name, key, {c: Column(dtype, meaning) for c, dtype, meaning in (*columns, *verdict)})


_ORIGIN: Sequence[tuple[str, pl.DataType, str]] = [
    ("source", pl.String(), "where the post was published"),
    ("author", pl.String(), "who wrote the post"),
    ("url", pl.String(), "where the post can be read"),
    ("license", pl.String(), "under which licence the post stands, as its source says"),
]
"""What goes with a post's content wherever it goes."""
ORIGIN = tuple(name for name, _, _ in _ORIGIN)
VOTE = pl.Struct({"draw": pl.Int32(), "score": pl.Int8(), "feedback": pl.String()})

UGC = _table(
    "ugc",
    "ugc_id",
    [
        ("ugc_id", pl.String(), "content hash of the normalised text"),
        ("shard", pl.String(), "partition the row came with"),
        ("line", pl.Int64(), "line or row number in the source file, from 1"),
        ("text", pl.String(), "normalised text; of a broken row, what could be read of it"),
        ("title", pl.String(), "title, where the source has one"),
        ("source", pl.String(), "where it was published"),
        ("author", pl.String(), "who wrote it"),
        ("url", pl.String(), "where it can be read"),
        ("license", pl.String(), "under which licence"),
        ("created_at", pl.String(), "when it was written, as the source says"),
        ("lang", pl.String(), "language code, as the source says"),
        ("thread", pl.String(), "conversation it belongs to, as the source names it; null where it has none"),
        ("kind", pl.String(), "what it is, as the source says: question, answer, review ..."),
        ("tags", pl.List(pl.String()), "its tags; of an answer, its question's"),
        ("score", pl.Float64(), "votes or rating, as the source says"),
        ("accepted", pl.Boolean(), "whether the question's author accepted the answer; null where nobody says"),
        ("n_chars", pl.Int64(), "characters of the normalised text; of one that was cut before, of what was left"),
        ("detail", pl.String(), "for a dropped row: what is wrong with it"),
    ],
)
QUALITY = _table(
    "quality",
    "ugc_id",
    [
        ("ugc_id", pl.String(), "the post"),
        ("score", pl.Int8(), "1 to 5; null when the judge's answer did not parse"),
        ("reasoning", pl.String(), "the judge's whole answer"),
    ],
)
INSTRUCTIONS = _table(
    "instructions",
    "instruction_id",
    [
        ("instruction_id", pl.String(), "hash of post and instruction"),
        ("ugc_id", pl.String(), "the post it was made from"),
        ("draw", pl.Int32(), "which draw of this post's instructions"),
        ("instruction", pl.String(), "the question the post answers"),
    ],
)
RELEVANCE = _table(
    "relevance",
    "instruction_id",
    [
        ("instruction_id", pl.String(), "the instruction"),
        ("relevant", pl.Boolean(), "whether the post answers it; null when the answer did not parse"),
    ],
)
RESPONSES = _table(
    "responses",
    "response_id",
    [
        ("response_id", pl.String(), "hash of instruction, draw and text"),
        ("instruction_id", pl.String(), "the instruction it answers"),
        ("draw", pl.Int32(), "which of the K draws"),
        ("text", pl.String(), "the policy's answer"),
        ("n_tokens", pl.Int32(), "tokens of the answer, as the policy counts"),
        ("finish_reason", pl.String(), "stop, length (cut off), or the engine's word for a refusal"),
    ],
)
REWARDS = _table(
    "rewards",
    "response_id",
    [
        ("response_id", pl.String(), "the judged response"),
        ("instruction_id", pl.String(), "its instruction"),
        (
            "votes",
            pl.List(VOTE),
            "every draw of the judge: score (null = did not parse, or never came) and the whole feedback",
        ),
        ("n_valid", pl.Int32(), "votes that parsed"),
        ("reward", pl.Float64(), "the valid votes aggregated; null when too few"),
        ("spread", pl.Float64(), "standard deviation of the valid votes (population)"),
    ],
)
PAIRS = _table(
    "pairs",
    "pair_id",
    [
        ("pair_id", pl.String(), "hash of the two responses"),
        ("instruction_id", pl.String(), "the instruction"),
        ("ugc_id", pl.String(), "the post that served as reference"),
        ("instruction", pl.String(), "the instruction's text"),
        ("line", pl.Int64(), "line of the post in its file"),
        ("post", pl.String(), "the post's text"),
        *_ORIGIN,
        ("title", pl.String(), "the post's title"),
        ("thread", pl.String(), "conversation the post belongs to, as its source names it"),
        ("chosen_response_id", pl.String(), "the better response"),
        ("rejected_response_id", pl.String(), "the worse response"),
        ("chosen", pl.String(), "its text"),
        ("rejected", pl.String(), "its text"),
        ("chosen_reward", pl.Float64(), "its reward"),
        ("rejected_reward", pl.Float64(), "its reward"),
        ("margin", pl.Float64(), "chosen_reward - rejected_reward"),
        ("chosen_tokens", pl.Int32(), "its length"),
        ("rejected_tokens", pl.Int32(), "its length"),
        ("chosen_cut_off", pl.Boolean(), "whether its text was cut off, so that it has no end"),
        ("rejected_cut_off", pl.Boolean(), "whether its text was cut off"),
    ],
)
_TURNS = pl.List(pl.Struct({"role": pl.String(), "content": pl.String()}))
DATASET = _table(
    "dataset",
    "pair_id",
    [
        ("pair_id", pl.String(), "the pair"),
        ("instruction_id", pl.String(), "its instruction"),
        ("ugc_id", pl.String(), "its post"),
        ("shard", pl.String(), "its shard"),
        ("split", pl.String(), "train or test, the same for all pairs of a group"),
        ("group", pl.String(), "posts of one thread or title, near-duplicate posts and questions"),
        *_ORIGIN,
        ("prompt", _TURNS, "conversational prompt, as TRL reads it"),
        ("chosen", _TURNS, "the better answer"),
        ("rejected", _TURNS, "the worse answer"),
        ("chosen_reward", pl.Float64(), "reward of chosen"),
        ("rejected_reward", pl.Float64(), "reward of rejected"),
        ("margin", pl.Float64(), "their difference"),
        ("chosen_cut_off", pl.Boolean(), "whether chosen was cut off: no end is trained after it"),
        ("rejected_cut_off", pl.Boolean(), "whether rejected was cut off: likewise"),
    ],
)
TABLES = {t.name: t for t in (UGC, QUALITY, INSTRUCTIONS, RELEVANCE, RESPONSES, REWARDS, PAIRS, DATASET)}
