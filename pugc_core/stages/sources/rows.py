"""One row of a file of posts."""

from __future__ import annotations

from typing import Any, NamedTuple

RAW_CHARS = 2000
"""What is kept of a broken row."""


class Raw(NamedTuple):
    """One row of a file: its fields by name, or what is wrong with it and what could be read of it.

    `other` says what the row is where the format tells that it is no post, such as a comment.
    """

    line: int
    fields: dict[str, Any] | None
    problem: str | None
    raw: str
    other: str | None = None


def broken(line: int, problem: str, raw: bytes) -> Raw:
    """A row that cannot be used; as much of it is decoded as is kept."""
    text = raw[: 4 * RAW_CHARS].decode("utf-8", "replace").rstrip("\r\n")[:RAW_CHARS]
    return Raw(line, None, problem, text)


def not_utf8(data: bytes) -> str | None:
    try:
        data.decode()
    except UnicodeDecodeError as err:
        return f"not UTF-8: byte 0x{data[err.start]:02x} at position {err.start + 1}"
    return None
