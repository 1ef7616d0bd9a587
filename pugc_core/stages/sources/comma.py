"""CSV: a header, then a row per record."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from pugc_core.errors import SourceError
from pugc_core.stages.sources import files, limits
from pugc_core.stages.sources.rows import RAW_CHARS, Raw, not_utf8


class _Lines:
    """Text lines for the csv module, which also know where the row at hand began and how it reads."""

    def __init__(self, path: str, text: io.TextIOWrapper) -> None:
        self._path, self._text = path, text
        self.number, self.start, self.raw, self._length = 0, 1, "", 0

    def begin(self) -> None:
        self.start, self.raw, self._length = self.number + 1, "", 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(limits.LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._length += len(line)
        if self._length > limits.LONGEST_ROW:  # where the next row begins, nobody can say
            problem = f"{self._path}, line {self.start}: a row {limits.too_long('characters')}"
            raise SourceError(problem, fix="close the quote that is opened there, or take that row out")
        if "\0" in line:
            problem = f"{self._path}, line {self.number}: a NUL character, so this is no text file"
            raise SourceError(problem, fix="tr -d '\\000' < OLD.csv > NEW.csv, if it is CSV otherwise")
        if len(self.raw) < RAW_CHARS:
            self.raw += line[:RAW_CHARS]
        return line

    def broken(self, problem: str) -> Raw:
        raw = self.raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return Raw(self.start, None, problem, raw.rstrip("\r\n")[:RAW_CHARS])


def read(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    files.check_utf16(path, data)
    csv.field_size_limit(2**31 - 1)
    lines = _Lines(path, io.TextIOWrapper(data, "utf-8-sig", "surrogateescape", newline=""))
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    while True:
        lines.begin()
        try:
            row = next(reader, None)
        except csv.Error as err:
            if "unexpected end" in str(err):
                problem = f"{path}, line {lines.start}: a quote is opened there and never closed"
                raise SourceError(problem, fix="close the quote (a quote inside a field is written twice)") from err
            yield lines.broken(f"invalid CSV: {err}")
            continue
        if row is None:
            return
        if not row:
            continue
        wrong = not_utf8(",".join(row).encode("utf-8", "surrogateescape"))  # as which undecodable bytes arrive
        if not header:
            if wrong:
                raise files.wrong_encoding(path, f"line {lines.start}: {wrong}", "WINDOWS-1252")
            header = _header(path, row)
        elif wrong or len(row) != len(header):
            yield lines.broken(wrong or f"{len(row)} fields, the header has {len(header)}")
        else:
            yield Raw(lines.start, dict(zip(header, row, strict=True)), None, "")


def _header(path: str, row: list[str]) -> list[str]:
    if wide := limits.too_wide(len(row)):
        raise SourceError(f"{path}: {wide}", fix="keep the columns that describe posts, drop the others")
    names = [name.strip() for name in row]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    odd = [n for n in names if len(n) > 100 or "\n" in n or re.fullmatch(r"-?\d+(\.\d+)?", n)]
    if twice:
        raise SourceError(f"{path}: two columns are named {twice[0]!r}", fix="give every column a name of its own")
    if odd or not any(names):
        problem = f"{path}: the first row is no header ({(odd or [''])[0][:40]!r} is no column's name)"
        raise SourceError(problem, fix="put a row with the names of the columns first, such as: title,text,url")
    if len(names) == 1 and (other := re.search(r"[;\t|]", names[0])):
        raise SourceError(f"{path}: its fields are parted by {other.group()!r}", fix="export it with commas")
    return names
