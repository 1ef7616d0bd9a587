"""Text for the terminal. Answers, posts and file names are written by others, and a terminal obeys what it is sent.

A control sequence can move the cursor, rewrite what was printed, set the clipboard or the window's title, or make the
terminal type. None gets through, and neither does what turns the order of the letters on the line round.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import click

_SEQUENCES = re.compile(
    # OSC, DCS, SOS, PM and APC: window titles, the clipboard, links
    "(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]{0,4096}(?:\x07|\x9c|\x1b\\\\)"
    "|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    "|\x1b[ -/]*[0-~]"  # the short ones: reset, character sets, save and restore
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """The text without control sequences and control characters, but for line breaks and tabs."""
    return _CONTROLS.sub("", _SEQUENCES.sub("", str(text).replace("\r\n", "\n")))


def echo(text: object, *, err: bool = False, **style: Any) -> None:
    """A line of plain text in the terminal, in colour where wanted."""
    click.secho(plain(text), err=err, **style)


class Formatter(logging.Formatter):
    """Log records as plain text."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))
