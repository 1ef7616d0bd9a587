"""What a row says beside its text: the columns that hold it, and their values in the table's types.

A value that cannot be one is missing, never a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field

from pugc_core.config import Config
from pugc_core.stages.normalise import normalise

LABEL_CHARS = 2000
"""Longer titles, names, addresses ... are cut there, and end in an ellipsis."""
MOST_TAGS = 50


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
    kind: Names = ("kind",)
    tags: Names = ("tags", "Tags")
    score: Names = ("score", "Score")
    accepted: Names = ("accepted", "is_accepted")

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Everything but the text, by column of the table."""
        texts = ("title", "source", "author", "url", "license", "created_at", "lang", "thread", "kind")
        return {name: _label(row, getattr(self, name)) for name in texts} | {
            "tags": _tags(row, self.tags),
            "score": _score(row, self.score),
            "accepted": _accepted(row, self.accepted),
        }


def _values(row: Mapping[str, Any], names: Names) -> list[Any]:
    """What the columns hold, those without a value left out."""
    values = [decoded(row[name]) for name in names if name in row]
    return [v for v in values if v is not None and v == v]  # NaN is how some tools write a missing value


def _label(row: Mapping[str, Any], names: Names) -> str | None:
    """The first of the columns that has a value, as one line of text."""
    return next(filter(None, map(_line, _values(row, names))), None)


def _line(value: Any) -> str:
    if isinstance(value, list | dict):
        value = orjson.dumps(value, default=str).decode()
    text = str(value)
    cut = text[: 4 * LABEL_CHARS]
    cut = " ".join((cut if cut.isascii() and cut.isprintable() else normalise(cut)).split())
    return cut if len(cut) <= LABEL_CHARS and len(text) <= 4 * LABEL_CHARS else cut[: LABEL_CHARS - 1].rstrip() + "…"


def _tags(row: Mapping[str, Any], names: Names) -> list[str] | None:
    """Of a list, its items; of text, what stands between `<>`, `|`, `,` or `;`. StackExchange had first the one, now
    the other."""
    for value in _values(row, names):
        items = value if isinstance(value, list) else re.split(r"[<>|,;]+", value) if isinstance(value, str) else []
        tags = [tag for item in items[:MOST_TAGS] if isinstance(item, str | int) and (tag := _line(item))]
        if tags:
            return tags
    return None


def _score(row: Mapping[str, Any], names: Names) -> float | None:
    for value in _values(row, names):
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                score = float(value)
            except (ValueError, OverflowError):
                continue
            if math.isfinite(score):
                return score
    return None


def _accepted(row: Mapping[str, Any], names: Names) -> bool | None:
    known = {"true": True, "1": True, "false": False, "0": False}
    words = (str(v).lower() for v in _values(row, names) if isinstance(v, bool | int | str))
    return next((known[word] for word in words if word in known), None)


def decoded(value: Any) -> Any:
    """Some writers of Parquet store text as bytes."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value
