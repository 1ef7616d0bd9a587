"""Posts as they come in: the recipe's columns, normalised text, a content hash as id, a reason for every row left out.

Special tokens and score markers in a post are left as they are; prompts neutralise them when they are rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import polars as pl
from pydantic import Field, model_validator

from pugc_core.config import Config, digest
from pugc_core.errors import SourceError
from pugc_core.stages import near, sources
from pugc_core.stages.base import Build, Dropped, Inputs, Stage
from pugc_core.stages.fields import Fields, decoded
from pugc_core.stages.normalise import normalise
from pugc_core.stages.records import define, make_id
from pugc_core.stages.sources import Raw
from pugc_core.stages.sources.limits import MOST_COLUMNS

VERSION = "3"
EXCERPT_CHARS = 1000
"""What the table keeps of a post that is too long."""
_CUT = 4
"""A text of more than so many times `max_chars` is too long whatever normalising may take away, and is only begun."""
_ROWS_AT_ONCE = 10_000
"""Rows held as Python's objects; as a frame they take a tenth of it."""


class UgcConfig(Config):
    """Knobs of the stage."""

    fields: Fields = Fields()
    min_chars: Annotated[int, Field(ge=1)] = 200
    """Shorter posts are dropped as `too_short`; the title counts where it is part of the text."""
    max_chars: int = 20_000
    """Longer posts are dropped as `too_long`."""
    title_in_text: bool = True
    """Whether a title that the text does not begin with is put before it, followed by a blank line. Never before an
    answer (kind `answer`), whose title is its question's."""
    questions: bool = False
    """Whether posts that ask (kind `question`) are kept too: pairs are made of posts that answer."""
    languages: tuple[str, ...] = ()
    """Codes to keep, such as `en` (which covers en-GB too); empty keeps all, and so does a row that names none."""
    near_duplicates: Literal["drop", "keep"] = "drop"
    """Whether of near-duplicate posts only the first is kept (the others: `near_duplicate`). Kept or not, they stand on
    one side of the split into train and test."""
    similarity: Annotated[float, Field(ge=0.7, le=1)] = 0.8
    """Share of runs of three words that two posts have in common (Jaccard) from which they are near-duplicates."""

    @model_validator(mode="after")
    def _ordered(self) -> UgcConfig:
        if self.max_chars < self.min_chars:
            raise ValueError(f"max_chars ({self.max_chars}) is below min_chars ({self.min_chars})")
        return self


class _Verdict(NamedTuple):
    reason: str | None
    detail: str | None = None


@dataclass(frozen=True)
class Ugc(Stage):
    """The first stage: a file of posts becomes a table with one row for every row of the file."""

    config: UgcConfig
    path_of: Callable[[str], str]
    """The source file of a shard."""

    name = "ugc"
    sentence = (
        "Posts as people wrote them: read from the shard's file, normalised, exact duplicates and unusable rows set "
        "aside."
    )
    table = define(
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
    sample = ("title", "text")
    dropped = Dropped("text", note="detail")

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {
            "version": VERSION,
            "fields": digest(self.config.fields.model_dump()),
            "limits": digest([self.config.min_chars, self.config.max_chars]),
            "title": digest(self.config.title_in_text),
            "questions": digest(self.config.questions),
            "languages": digest(sorted(self.config.languages)),
            "near": digest([self.config.near_duplicates, self.config.similarity]),
        }

    def build(self, shard: str, inputs: Inputs) -> Build:
        """The shard's table; nothing is asked of any model. Raises SourceError when the file cannot be used at all."""
        yield from ()
        path = self.path_of(shard)
        frames: list[pl.DataFrame] = []
        rows: list[dict[str, Any]] = []
        lines: dict[str, int] = {}
        seen = _Seen()
        for raw in sources.read(path):
            row = self._sound_row(shard, raw)
            if row["keep"] and (first := lines.setdefault(row["ugc_id"], raw.line)) != raw.line:
                row |= {"keep": False, "drop_reason": "duplicate", "detail": f"same text as line {first}"}
            seen.take(raw, self.config.fields.text)
            rows.append(row)
            if len(rows) == _ROWS_AT_ONCE:
                frames.append(Ugc.table.frame(rows))
                rows = []
        if not seen.mapped:
            raise self._unusable(path, seen)
        frame = pl.concat([*frames, Ugc.table.frame(rows)])
        return near.dropped(frame, self.config.similarity) if self.config.near_duplicates == "drop" else frame

    def _unusable(self, path: str, seen: _Seen) -> SourceError:
        if not seen.columns and seen.broken:
            rows = f"none of its {seen.rows} rows can be read; line {seen.broken.line}: {seen.broken.problem}"
            return SourceError(f"{path}: {rows}", fix="check that the file is what its suffix says")
        found = ", ".join(name[:60] for name in list(seen.columns)[:30]) or "none"
        wanted = " or ".join(self.config.fields.text)
        known = ", ".join(f'"{name}"' for name in self.config.fields.text)
        return SourceError(
            f"{path}: no row has a column {wanted}; columns found: {found}",
            fix=f'name the column that holds the posts in the recipe: [ugc.fields] text = [{known}, "COLUMN"] '
            "(tried in this order)",
        )

    def _sound_row(self, shard: str, raw: Raw) -> dict[str, Any]:
        try:
            return self._row(shard, raw)
        except Exception as err:  # whatever is odd about one row, it is no reason to lose the others
            broken = Raw(raw.line, None, f"{type(err).__name__}: {err}"[:EXCERPT_CHARS], raw.raw)
            return self._row(shard, broken)

    def _row(self, shard: str, raw: Raw) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(Ugc.table.columns) | {"shard": shard, "line": raw.line}
        if raw.fields is None:
            row |= {"ugc_id": make_id("broken", shard, raw.line, raw.raw)}
            return row | _outcome(raw.raw, _Verdict("broken_row", raw.problem))
        row |= self.config.fields.read(raw.fields)
        row["ugc_id"] = make_id("no text", shard, raw.line)
        most = self.config.max_chars * _CUT
        whole, text, trouble = _body(raw.fields, self.config.fields.text, most)
        if raw.other:
            return row | _outcome(text[:EXCERPT_CHARS], _Verdict("not_a_post", raw.other))
        if whole is None:
            return row | _outcome("", _Verdict("missing_text", trouble))
        if len(whole) > most:
            row["ugc_id"] = make_id("uncut", whole)
            return row | _outcome(text, _Verdict("too_long", f"{len(whole)} characters before normalisation"))
        if not text:
            return row | _outcome("", _Verdict("empty_text"))
        # The title over an answer is its question's, which somebody else wrote.
        if self.config.title_in_text and not _is(row["kind"], "answer"):
            text = _titled(row["title"], text)
        row["ugc_id"] = make_id("ugc", text)
        return row | _outcome(text, self._verdict(text, row))

    def _verdict(self, text: str, row: Mapping[str, Any]) -> _Verdict:
        config = self.config
        if _is(row["kind"], "question") and not config.questions:
            return _Verdict("question")
        if len(text) < config.min_chars:
            return _Verdict("too_short", f"{len(text)} characters")
        if len(text) > config.max_chars:
            return _Verdict("too_long", f"{len(text)} characters")
        if (lang := row["lang"]) and config.languages:
            code = lang.lower().replace("_", "-")
            listed = {language.lower().replace("_", "-") for language in config.languages}
            if not listed & {code, code.split("-")[0]}:
                return _Verdict("language", lang)
        return _Verdict(None)


class _Seen:
    """What is told of a file in which no row has the column that is wanted."""

    def __init__(self) -> None:
        self.rows = 0
        self.mapped = False
        self.columns: dict[str, None] = {}
        self.broken: Raw | None = None

    def take(self, raw: Raw, wanted: tuple[str, ...]) -> None:
        self.rows += 1
        if raw.fields is None:
            self.broken = self.broken or raw
        elif not self.mapped:
            self.mapped = raw.other is not None or any(name in raw.fields for name in wanted)
            if len(self.columns) < MOST_COLUMNS:
                self.columns |= dict.fromkeys(raw.fields)


def _outcome(text: str, verdict: _Verdict) -> dict[str, Any]:
    reason = verdict.reason
    return {
        "text": text[:EXCERPT_CHARS] if reason == "too_long" else text,
        "n_chars": len(text),
        "detail": verdict.detail,
        "keep": reason is None,
        "drop_reason": reason,
    }


def _is(kind: str | None, wanted: str) -> bool:
    return kind is not None and kind.casefold() == wanted


class _Body(NamedTuple):
    """A column's text as it stands, and normalised as far as it is looked at; None and why where there is none."""

    whole: str | None
    text: str
    trouble: str


def _body(fields: Mapping[str, Any], names: tuple[str, ...], most: int) -> _Body:
    """The first of the columns that has text; of more than `most` characters only so many are normalised."""
    found = _Body(None, "", f"no value in {', '.join(names)}")
    for name in names:
        value = decoded(fields.get(name))
        if isinstance(value, str):
            whole = value.strip()
            found = _Body(whole, normalise(whole[:most]), "")
            if found.text or len(whole) > most:
                return found
        elif value is not None and found.whole is None:
            found = _Body(None, "", f"{name} holds {type(value).__name__}, not text")
    return found


def _titled(title: str | None, text: str) -> str:
    if not title:
        return text
    start = text.lstrip("#*_= \t")
    head, rest = start[: len(title)], start[len(title) : len(title) + 1]
    return text if head.casefold() == title.casefold() and not rest.isalnum() else f"{title}\n\n{text}"
