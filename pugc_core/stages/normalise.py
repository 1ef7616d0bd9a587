"""Text as it is kept: one form for what looks alike, nothing invisible."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u180e\u200b\u2060\ufeff]+")
_JOINERS = re.compile("([\u200c\u200d])[\u200c\u200d]+")
_STRAY_JOINER = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])")
_BLANK_LINES = re.compile("\n{3,}")
_MOST_MARKS = 30
"""Combining marks in a row, as in Unicode's stream-safe text format (UAX #15, section 13)."""
MARKS_END = 0x1F000
"""No character from here on combines (a test looks)."""


def normalise(text: str) -> str:
    """NFC, plain line ends, nothing invisible, no trailing blanks, at most one blank line in a row.

    Zero-width joiners stay between letters that are not ASCII: Persian and Hindi spelling and many emoji need them.
    Takes time in proportion to the text, whatever is in it.
    """
    if not text.replace("\n", " ").replace("\t", " ").isprintable():
        text = _INVISIBLE.sub("", _LINE_BREAK.sub("\n", text))
    if not text.isascii():
        text = _composed(_STRAY_JOINER.sub("", _JOINERS.sub(r"\1", _composed(text))))
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return (_BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


def _composed(text: str) -> str:
    """NFC. Marks on one letter are sorted in time squared, so that a joiner parts more than any language puts there."""
    composed = unicodedata.normalize("NFC", _parted(text))
    return _parted(composed)  # a letter that comes apart may have added one


def _parted(text: str) -> str:
    coarse, exact = _marks()
    return coarse.sub(lambda run: exact.sub("\\g<0>\u034f", run.group()), text)


@cache
def _marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Runs that may hold too many marks, found fast, and in them as many as may stand together where one follows."""
    marks = [chr(code) for code in range(0x300, MARKS_END) if unicodedata.combining(chr(code))]
    plain = "".join(mark for mark in marks if mark < "\U00010000")  # among these alone the search is fast
    every = f"[{''.join(marks)}]"
    return (
        re.compile(f"[{plain}\U00010000-\U0001efff]{{{_MOST_MARKS + 1},}}"),
        re.compile(f"{every}{{{_MOST_MARKS}}}(?={every})"),
    )
