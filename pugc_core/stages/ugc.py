"""Posts as they come in: the recipe's columns, normalised text, a content hash as id, a reason for every row left out.

Special tokens and score markers in a post are left as they are; prompts neutralise them when they are rendered.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import orjson
import polars as pl
from pydantic import BeforeValidator, Field, model_validator

from pugc_core.config import Config, digest
from pugc_core.errors import SourceError
from pugc_core.records import UGC, make_id
from pugc_core.stages import near, sources
from pugc_core.stages.base import Build

VERSION = "2"
EXCERPT_CHARS = 1000
"""What the table keeps of a post that is too long."""


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_names)]


class Fields(Config):
    """Which column of the source holds what: a name, or several that are tried in order."""

    text: Annotated[Names, Field(min_length=1)] = ("text", "body", "Body", "content")
    title: Names = ("title", "Title")
    source: Names = ("source",)
    author: Names = ("author", "OwnerDisplayName", "OwnerUserId")
    url: Names = ("url",)
    license: Names = ("license", "ContentLicense")
    created_at: Names = ("created_at", "date", "CreationDate")
    lang: Names = ("lang", "language")
    thread: Names = ("thread", "thread_id")


class UgcConfig(Config):
    """Knobs of the stage."""

    fields: Fields = Fields()
    min_chars: Annotated[int, Field(ge=1)] = 200
    """Shorter posts are dropped as `too_short`; the title counts where it is part of the text."""
    max_chars: int = 20_000
    """Longer posts are dropped as `too_long`."""
    title_in_text: bool = True
    """Whether a title that the text does not begin with is put before it, followed by a blank line."""
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


_LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u180e\u200b\u2060\ufeff]+")
_JOINERS = re.compile("([\u200c\u200d])[\u200c\u200d]+")
_STRAY_JOINER = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])")
_BLANK_LINES = re.compile("\n{3,}")


def normalise(text: str) -> str:
    """NFC, plain line ends, nothing invisible, no trailing blanks, at most one blank line in a row.

    Zero-width joiners stay between letters that are not ASCII: Persian and Hindi spelling and many emoji need them.
    """
    if not text.replace("\n", " ").replace("\t", " ").isprintable():
        text = _INVISIBLE.sub("", _LINE_BREAK.sub("\n", text))
    if not text.isascii():
        text = _JOINERS.sub(r"\1", unicodedata.normalize("NFC", text))
        text = unicodedata.normalize("NFC", _STRAY_JOINER.sub("", text))
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return (_BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


class _Verdict(NamedTuple):
    reason: str | None
    detail: str | None = None


class Ugc:
    """The first stage: a file of posts becomes a table with one row for every row of the file."""

    name = "ugc"
    table = UGC
    inputs: tuple[str, ...] = ()
    role: str | None = None

    def __init__(self, config: UgcConfig, path_of: Callable[[str], str]) -> None:
        self.config = config
        self._path_of = path_of

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {
            "version": VERSION,
            "fields": digest(self.config.fields.model_dump()),
            "limits": digest([self.config.min_chars, self.config.max_chars]),
            "title": digest(self.config.title_in_text),
            "languages": digest(sorted(self.config.languages)),
            "near": digest([self.config.near_duplicates, self.config.similarity]),
        }

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        """The shard's table; nothing is asked of any model. Raises SourceError when the file cannot be used at all."""
        yield from ()
        path = self._path_of(shard)
        rows: list[dict[str, Any]] = []
        lines: dict[str, int] = {}
        columns: dict[str, None] = {}
        mapped = False
        for raw in sources.read(path):
            row = self._sound_row(shard, raw)
            if row["keep"] and (first := lines.setdefault(row["ugc_id"], raw.line)) != raw.line:
                row |= {"keep": False, "drop_reason": "duplicate", "detail": f"same text as line {first}"}
            if raw.fields is not None and not mapped:
                mapped = any(name in raw.fields for name in self.config.fields.text)
                columns |= dict.fromkeys(raw.fields)
            rows.append(row)
        if not mapped:
            raise self._unusable(path, rows, list(columns))
        if self.config.near_duplicates == "drop":
            near.drop(rows, self.config.similarity)
        return UGC.frame(rows)

    def _unusable(self, path: str, rows: list[dict[str, Any]], columns: list[str]) -> SourceError:
        if all(row["drop_reason"] == "broken_row" for row in rows):
            problem = f"{path}: none of its {len(rows)} rows can be read; line {rows[0]['line']}: {rows[0]['detail']}"
            return SourceError(problem, fix="check that the file is what its suffix says")
        found = ", ".join(name[:60] for name in columns[:30]) or "none"
        wanted = " or ".join(self.config.fields.text)
        known = ", ".join(f'"{name}"' for name in self.config.fields.text)
        return SourceError(
            f"{path}: no row has a column {wanted}; columns found: {found}",
            fix=f'name the column that holds the posts in the recipe: [ugc.fields] text = [{known}, "COLUMN"] '
            "(tried in this order)",
        )

    def _sound_row(self, shard: str, raw: sources.Raw) -> dict[str, Any]:
        try:
            return self._row(shard, raw)
        except Exception as err:  # whatever is odd about one row, it is no reason to lose the others
            broken = sources.Raw(raw.line, None, f"{type(err).__name__}: {err}"[:EXCERPT_CHARS], raw.raw)
            return self._row(shard, broken)

    def _row(self, shard: str, raw: sources.Raw) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(UGC.columns)
        row |= {"shard": shard, "line": raw.line}
        if raw.fields is None:
            text, verdict = raw.raw, _Verdict("broken_row", raw.problem)
            row |= {"ugc_id": make_id("broken", shard, raw.line, raw.raw)}
        else:
            mapping = self.config.fields
            row |= {to: _label(raw.fields, getattr(mapping, to)) for to in Fields.model_fields if to != "text"}
            body, trouble = _body(raw.fields, mapping.text)
            if body:
                text = _titled(row["title"], body) if self.config.title_in_text else body
                verdict = self._verdict(text, row["lang"])
                row |= {"ugc_id": make_id("ugc", text)}
            else:
                text, verdict = "", _Verdict("missing_text", trouble) if body is None else _Verdict("empty_text")
                row |= {"ugc_id": make_id("no text", shard, raw.line)}
        kept_text = text[:EXCERPT_CHARS] if verdict.reason == "too_long" else text
        row |= {"text": kept_text, "n_chars": len(text), "detail": verdict.detail}
        return row | {"keep": verdict.reason is None, "drop_reason": verdict.reason}

    def _verdict(self, text: str, lang: str | None) -> _Verdict:
        config = self.config
        if len(text) < config.min_chars:
            return _Verdict("too_short", f"{len(text)} characters")
        if len(text) > config.max_chars:
            return _Verdict("too_long", f"{len(text)} characters")
        if lang and config.languages:
            code = lang.lower().replace("_", "-")
            listed = {language.lower().replace("_", "-") for language in config.languages}
            if not listed & {code, code.split("-")[0]}:
                return _Verdict("language", lang)
        return _Verdict(None)


def _body(fields: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str | None, str]:
    """The first of the columns that has text, normalised; empty when they are blank, None and why when none has any."""
    blank, trouble = None, f"no value in {', '.join(names)}"
    for name in names:
        value = _decoded(fields.get(name))
        if isinstance(value, str):
            blank = normalise(value)
            if blank:
                return blank, ""
        elif value is not None:
            trouble = f"{name} holds {type(value).__name__}, not text"
    return blank, trouble


def _label(fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of the columns that has a value, as one line of text."""
    for name in names:
        value = _decoded(fields.get(name))
        if value is None or value != value:  # NaN is how some tools write a missing value
            continue
        if isinstance(value, list | dict):
            value = orjson.dumps(value, default=str).decode()
        text = str(value)
        text = " ".join((text if text.isascii() and text.isprintable() else normalise(text)).split())
        if text:
            return text
    return None


def _decoded(value: Any) -> Any:
    """Some writers of Parquet store text as bytes."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _titled(title: str | None, text: str) -> str:
    if not title:
        return text
    start = text.lstrip("#*_= \t")
    head, rest = start[: len(title)], start[len(title) : len(title) + 1]
    return text if head.casefold() == title.casefold() and not rest.isalnum() else f"{title}\n\n{text}"
