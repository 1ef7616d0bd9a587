"""JSON lines: an object per line."""

from __future__ import annotations

import io
import re
from codecs import BOM_UTF8
from collections.abc import Iterator

import orjson

from pugc_core.errors import SourceError
from pugc_core.stages.sources import files, limits, names
from pugc_core.stages.sources.rows import Raw, broken, not_utf8


def read(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    files.check_utf16(path, data)
    if names.parse(path)[1] == "json" and re.match(rb"(?:\xef\xbb\xbf)?\s*(?:\[|\{\s*\n)", data.peek(512)):
        raise SourceError(f"{path} is one JSON value over several lines", fix="jq -c '.[]' FILE.json > FILE.jsonl")
    first = True
    for number, line in enumerate(lines(data), 1):
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        if line.strip():
            row = _row(number, line)
            if first and row.problem and row.problem.startswith("not UTF-8"):
                raise files.wrong_encoding(path, f"line {number}: {row.problem}", "WINDOWS-1252")
            first = False
            yield row


def lines(data: io.BufferedReader) -> Iterator[bytes]:
    """The lines with their ends; of one longer than LONGEST_ROW its first LONGEST_ROW + 1 bytes."""
    while line := data.readline(limits.LONGEST_ROW + 1):
        yield line
        while len(line) > limits.LONGEST_ROW and line[-1:] != b"\n" and (rest := data.readline(1 << 20)):
            line = rest if rest[-1:] == b"\n" else line


def _row(number: int, line: bytes) -> Raw:
    if len(line) > limits.LONGEST_ROW:
        return broken(number, limits.too_long(), line)
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as err:
        problem = not_utf8(line) or f"invalid JSON: {err.msg} at character {err.colno}"
        return broken(number, problem, line)
    if not isinstance(fields, dict):
        return broken(number, f"JSON, but no object: {type(fields).__name__}", line)
    deep = limits.too_deep(fields) if line.count(b"[") + line.count(b"{") > limits.DEEPEST else None
    if problem := limits.too_wide(len(fields)) or deep or "":
        return broken(number, problem, line)
    return Raw(number, fields, None, "")
