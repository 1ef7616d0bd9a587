"""Files of posts, row by row: JSON lines, CSV, Parquet and StackExchange's Posts.xml, on any fsspec path.

A broken row is handed on with its line number and what is wrong with it; a broken file is refused with SourceError.
Nothing is skipped but blank lines, and those count in the line numbers.
"""

from __future__ import annotations

import csv
import html
import io
import re
import shlex
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import lxml.html
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lxml import etree

from pugc_core import storage
from pugc_core.errors import PugcError, SourceError

RAW_CHARS = 2000
"""What is kept of a broken row."""


class Raw(NamedTuple):
    """One row of a file: its fields by name, or what is wrong with it and what could be read of it."""

    line: int
    fields: dict[str, Any] | None
    problem: str | None
    raw: str


_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".xml")
SUFFIXES = (*(kind + pack for kind in _KINDS for pack in ("", ".gz", ".zst")), ".parquet")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def _split(path: str) -> tuple[str, str, str]:
    """Base name, format and packing of a path: ('posts', 'jsonl', 'gz')."""
    name = path.rsplit("/", 1)[-1]
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            kind, _, pack = suffix[1:].partition(".")
            return name[: -len(suffix)], kind, pack
    known = ", ".join(SUFFIXES)
    raise SourceError(f"{path}: no reader for this kind of file", fix=f"convert or rename it to one of {known}")


def check_shard(name: str) -> str:
    """The name itself. Raises SourceError with a safe name unless it can be a file name and a partition key."""
    if _SHARD.fullmatch(name):
        return name
    plain = unicodedata.normalize("NFKD", re.sub(r"[^\w]+", "-", name)).encode("ascii", "ignore").decode()
    safe = re.sub(r"-+", "-", plain).strip("-_")[:100] or "shard-1"
    bad = sorted(set(re.findall(r"[^A-Za-z0-9_-]", name)))
    why = f"it has {' '.join(map(repr, bad))}" if bad else "it is empty, too long or starts with '-' or '_'"
    raise SourceError(
        f"{name[:120]!r} cannot be the name of a shard: {why}",
        fix=f"name it {safe!r}: letters, digits, '-' and '_', a letter or digit first, at most 100",
    )


def shard_name(filename: str) -> str:
    """The shard a file becomes: its base name without the suffix."""
    return check_shard(_split(filename)[0])


def read(path: str) -> Iterator[Raw]:
    """The rows of a file in their order. Raises SourceError, naming place and remedy, when the file cannot be read."""
    _, kind, pack = _split(path)
    rows = 0
    try:
        with opened(path) as data:
            if not data.peek(1):
                raise SourceError(f"{path} is empty", fix="put one post per row into it, or remove it")
            for row in _READERS[kind](path, data):
                rows += 1
                yield row
    except (pa.ArrowException, OSError) as err:
        problem = f"{path} is damaged or no {pack or kind} file (after {rows} rows): {_words(err)}"
        raise SourceError(problem, fix="copy the file here again; if that does not help, make it anew") from err
    if not rows:
        raise SourceError(
            f"{path} has no rows", fix="put one post per row into it (XML: one <row ...> each), or remove it"
        )


@contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked."""
    with _open(path) as file, _unpack(file, _split(path)[2]) as data:
        yield data


def _open(path: str) -> Any:
    try:
        fs, inner = storage.filesystem(path)
        fs.invalidate_cache(inner)
        return fs.open(inner, "rb")
    except PugcError:
        raise
    except FileNotFoundError as err:
        raise SourceError(f"{path} does not exist", fix="check the name, or put the file there again") from err
    except Exception as err:  # every driver has its own words for no access, no credentials, no such protocol
        raise SourceError(f"{path} cannot be opened: {_words(err)}", fix="check path and permissions") from err


def _unpack(file: Any, pack: str) -> io.BufferedReader:
    stream = pa.CompressedInputStream(file, {"gz": "gzip", "zst": "zstd"}[pack]) if pack else file
    return io.BufferedReader(stream, 1 << 20)


def _words(err: Exception) -> str:
    return " ".join(str(err).split()) or type(err).__name__


def _wrong_encoding(path: str, found: str, encoding: str) -> SourceError:
    stem, kind, pack = _split(path)
    old, new = shlex.quote(f"{stem}.{kind}"), shlex.quote(f"{stem}-utf8.{kind}")
    fix = f"{'unpack it, then ' if pack else ''}iconv -f {encoding} -t UTF-8 {old} > {new}"
    return SourceError(f"{path} is not UTF-8: {found}", fix=fix)


def _check_utf16(path: str, data: io.BufferedReader) -> None:
    head = data.peek(4)[:4]
    bare = [byte == 0 for byte in head] in ([False, True, False, True], [True, False, True, False])
    if bare or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _wrong_encoding(path, "it looks like UTF-16", "UTF-16")


def _read_json(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    _check_utf16(path, data)
    if _split(path)[1] == "json" and re.match(rb"(?:\xef\xbb\xbf)?\s*(?:\[|\{\s*\n)", data.peek(512)):
        raise SourceError(f"{path} is one JSON value over several lines", fix="jq -c '.[]' FILE.json > FILE.jsonl")
    first = True
    for number, line in enumerate(data, 1):
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        if line.strip():
            row = _json_row(number, line)
            if first and row.problem and row.problem.startswith("not UTF-8"):
                raise _wrong_encoding(path, f"line {number}: {row.problem}", "WINDOWS-1252")
            first = False
            yield row


def _json_row(number: int, line: bytes) -> Raw:
    try:
        fields = orjson.loads(line)
        if isinstance(fields, dict):
            return Raw(number, fields, None, "")
        problem = f"JSON, but no object: {type(fields).__name__}"
    except orjson.JSONDecodeError as err:
        problem = _not_utf8(line) or f"invalid JSON: {err.msg} at character {err.colno}"
    return Raw(number, None, problem, line[: 4 * RAW_CHARS].decode("utf-8", "replace").rstrip("\r\n")[:RAW_CHARS])


def _not_utf8(line: bytes) -> str | None:
    try:
        line.decode()
    except UnicodeDecodeError as err:
        return f"not UTF-8: byte 0x{line[err.start]:02x} at position {err.start + 1}"
    return None


class _Lines:
    """Text lines for the csv module, which also know where the row at hand began and how it reads."""

    def __init__(self, path: str, text: io.TextIOWrapper) -> None:
        self._path, self._text = path, text
        self.number, self.start, self.raw = 0, 1, ""

    def begin(self) -> None:
        self.start, self.raw = self.number + 1, ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self.number += 1
        if "\0" in line:
            problem = f"{self._path}, line {self.number}: a NUL character, so this is no text file"
            raise SourceError(problem, fix="tr -d '\\000' < OLD.csv > NEW.csv, if it is CSV otherwise")
        if len(self.raw) < RAW_CHARS:
            self.raw += line[:RAW_CHARS]
        return line

    def broken(self, problem: str) -> Raw:
        raw = self.raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return Raw(self.start, None, problem, raw.rstrip("\r\n")[:RAW_CHARS])


def _read_csv(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    _check_utf16(path, data)
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
        wrong = _not_utf8(",".join(row).encode("utf-8", "surrogateescape"))  # as which undecodable bytes arrive
        if not header:
            if wrong:
                raise _wrong_encoding(path, f"line {lines.start}: {wrong}", "WINDOWS-1252")
            header = _header(path, row)
        elif wrong or len(row) != len(header):
            yield lines.broken(wrong or f"{len(row)} fields, the header has {len(header)}")
        else:
            yield Raw(lines.start, dict(zip(header, row, strict=True)), None, "")


def _header(path: str, row: list[str]) -> list[str]:
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


def _read_parquet(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    number = 0
    for batch in pq.ParquetFile(data).iter_batches(batch_size=512):
        columns = {name: _plain(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        try:
            values: list[Any] = [column.to_pylist() for column in columns.values()]
        except UnicodeDecodeError:
            values = [[_cell(cell) for cell in column] for column in columns.values()]
        for cells in zip(*values, strict=True):
            number += 1
            fields = dict(zip(columns, cells, strict=True))
            bad = next((name for name, cell in fields.items() if isinstance(cell, UnicodeDecodeError)), None)
            yield Raw(number, None, f"not UTF-8: column {bad}", _rest(fields)) if bad else Raw(number, fields, None, "")


def _plain(column: Any) -> Any:
    """Times as text, the same on every machine: with a zone they are UTC."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz:
        return pc.binary_join_element_wise(column.cast(pa.timestamp(kind.unit)).cast(pa.string()), "Z", "")
    return column.cast(pa.string()) if pa.types.is_temporal(kind) else column


def _cell(cell: Any) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as err:
        return err


def _rest(fields: dict[str, Any]) -> str:
    """What can be read of a row with undecodable cells."""
    bad = {k: v.object.decode("utf-8", "replace") for k, v in fields.items() if isinstance(v, UnicodeDecodeError)}
    return orjson.dumps({**fields, **bad}, default=str).decode()[:RAW_CHARS]


_PROLOG = re.compile(rb"(?:\xef\xbb\xbf)?(?>\s+|<\?.*?\?>|<!--.*?-->)*+<[A-Za-z_]", re.DOTALL)


def _read_xml(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    """StackExchange's Posts.xml: one `<row Id= PostTypeId= Body= .../>` per post, its Body in HTML.

    A document type is refused unread, since only there can entities grow (huge_tree lifts the parser's own limits).
    """
    _check_utf16(path, data)
    if not _PROLOG.match(head := data.peek(1 << 16)):
        why = "it declares a document type" if b"<!DOCTYPE" in head else "it does not begin with an element"
        raise SourceError(f"{path} is no Posts.xml: {why}", fix="use Posts.xml of a StackExchange dump as it is")
    safe = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": True}
    try:
        for number, (_, row) in enumerate(etree.iterparse(data, events=("end",), tag="row", **safe), 1):
            fields = dict(row.attrib)
            if "Body" in fields:
                fields["Body"] = html_to_text(fields["Body"])
            yield Raw(number, fields, None, "")
            row.clear()
            while row.getprevious() is not None:
                del row.getparent()[0]
    except etree.XMLSyntaxError as err:
        raise SourceError(f"{path} is no well-formed XML: {_words(err)}", fix="unpack or download it again") from err


_GAPS = dict.fromkeys(("p", "pre", "ul", "ol", "blockquote", "table", "hr", *(f"h{n}" for n in range(1, 7))), 2)
_GAPS |= dict.fromkeys(("div", "section", "article", "tr", "li", "dt", "dd"), 1)
_DOCUMENT = re.compile(r"</?(?:html|head|body)\b[^<>]*>", re.IGNORECASE)


def html_to_text(source: str) -> str:
    """The text of a piece of HTML: paragraphs parted by blank lines, list items and lines of code kept as lines."""
    parser = lxml.html.HTMLParser(
        encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True
    )
    whole = f"<div>{_DOCUMENT.sub('', source)}</div>"  # what follows a stray </body> would be lost
    root = lxml.html.document_fromstring(whole.encode(), parser=parser)
    if any("depth" in entry.message for entry in parser.error_log):  # and so would what is nested too deep
        return html.unescape(re.sub(r"<[^<>]*>", "\n", source)).strip()
    text = _Text()
    for event, element in etree.iterwalk(root, events=("start", "end")):
        text.tag(element.tag, event == "start")
        text.say((element.text if event == "start" else element.tail) or "")
    return "".join(text.parts).strip("\n")


class _Text:
    """HTML's text in reading order; line breaks wait until there is text to part."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._breaks = self._code = self._hidden = 0
        self._lists: list[int | None] = []
        self._marker = ""

    def tag(self, name: str, start: bool) -> None:
        step = 1 if start else -1
        self._code += step * (name == "pre")
        self._hidden += step * (name in ("script", "style"))
        if name == "br":
            self._breaks += start
        elif not (start and self._marker):
            self._breaks = max(self._breaks, min(_GAPS.get(name, 0), 1 if self._lists else 2))
        if name in ("ul", "ol"):
            self._lists = [*self._lists, 0 if name == "ol" else None] if start else self._lists[:-1]
        elif name == "li":
            count = self._lists[-1] if self._lists else None
            if start and count is not None:
                self._lists[-1] = count = count + 1
            bullet = "- " if count is None else f"{count}. "
            self._marker = "  " * (len(self._lists) - 1) + bullet if start else ""
        elif name in ("td", "th") and start and not self._breaks:
            self.say(" | ")

    def say(self, text: str) -> None:
        text = text if self._code else re.sub(r"\s+", " ", text)
        if self._breaks or not self.parts or self.parts[-1].endswith((" ", "\n")):
            text = text if self._code else text.lstrip()
        if text and not self._hidden:
            self.parts.append("\n" * self._breaks * bool(self.parts) + self._marker + text)
            self._breaks, self._marker = 0, ""


_READERS: dict[str, Callable[[str, io.BufferedReader], Iterator[Raw]]] = {
    "jsonl": _read_json,
    "ndjson": _read_json,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "xml": _read_xml,
}
