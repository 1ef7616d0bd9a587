"""StackExchange's Posts.xml, as its data dumps have it: questions, their answers, and rows that are neither.

An answer gets what its question says (title, tags, whether it was accepted); address and licence are worked out. The
licences by date are StackExchange's own account of them (https://stackoverflow.com/help/licensing).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lxml import etree

from pugc_core.errors import SourceError
from pugc_core.stages.sources import files, limits, names
from pugc_core.stages.sources.markup import html_to_text
from pugc_core.stages.sources.rows import Raw, broken

QUESTION, ANSWER = "question", "answer"
_KINDS = {
    "1": QUESTION,
    "2": ANSWER,
    "3": "wiki",
    "4": "tag wiki excerpt",
    "5": "tag wiki",
    "6": "moderator nomination",
    "7": "wiki placeholder",
    "8": "privilege wiki",
}
_PACKED_CHARS = 1000
"""Of a question's title and tags; StackExchange allows 150 and 115."""
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SITE = re.compile(
    r"(?:[a-z0-9]+\.)?(?:meta\.)?(?:stackexchange|stackoverflow)\.com|(?:meta\.)?mathoverflow\.net"
    r"|(?:meta\.)?(?:superuser|serverfault|askubuntu)\.com|stackapps\.com"
)
_PROLOG = re.compile(rb"(?:\xef\xbb\xbf)?(?>\s+|<\?.*?\?>|<!--.*?-->)*+<[A-Za-z_]", re.DOTALL)


def read(path: str, data: io.BufferedReader) -> Iterator[Raw]:
    """One `<row Id= PostTypeId= Body= .../>` per post, its Body in HTML.

    The file is read twice, since an answer may stand before its question. Of the first pass only what answers need of
    their questions is kept: id, title, tags and accepted answer: 240 bytes for a title of 50 letters and two
    tags (measured over 300,000 questions), so that a million questions take about 250 MB, however long their posts are.
    """
    with files.opened(path) as first:
        questions = _Questions(_elements(path, first))
    host = site(path)
    for number, attributes in enumerate(_elements(path, data), 1):
        if wide := limits.too_wide(len(attributes)):
            yield broken(number, wide, b"")
            continue
        kind = _kind(attributes)
        fields: dict[str, Any] = {name: text for name, text in attributes.items() if text}
        if "Body" in attributes:
            fields["Body"] = html_to_text(attributes["Body"])
        if "PostTypeId" in fields:
            fields = {name: value for name, value in _known(fields, kind, host).items() if value} | fields
        if kind == ANSWER and (thread := fields.get("ParentId")):
            fields = {"thread": thread} | questions.of(thread, fields.get("Id")) | fields
        yield Raw(number, fields, None, "", None if kind in (None, QUESTION, ANSWER) else kind)


def site(path: str) -> str | None:
    """The site that file name or folder names (coffee.stackexchange.com/Posts.xml), in a shard's name with dashes."""
    stem, folder = names.parse(path)[0], path.split("/")[-2:-1]
    for name in (stem, *folder):
        plain = re.sub(r"[._-]posts$", "", name.lower()).replace("-", ".")
        if _SITE.fullmatch(plain):
            return plain
    return None


def license_of(date: str) -> str | None:
    """The licence of what was written on that day (ISO); None where it is no date."""
    if not _DATE.match(date):
        return None
    return "CC BY-SA " + ("2.5" if date < "2011-04-08" else "3.0" if date < "2018-05-02" else "4.0")


def _kind(row: Mapping[str, str]) -> str | None:
    """What a row is; None where it does not say so, as rows of files that only look like Posts.xml."""
    if number := row.get("PostTypeId"):
        return _KINDS.get(number, f"post of type {number[:20]}")
    return "comment" if "PostId" in row and "Text" in row else None


def _known(row: Mapping[str, str], kind: str | None, host: str | None) -> dict[str, str | None]:
    """What the row says between its lines."""
    known = {"kind": kind, "source": host, "ContentLicense": license_of(row.get("CreationDate", ""))}
    if kind == QUESTION:
        known["thread"] = row.get("Id")
    number = row.get("Id", "")
    if host and kind in (QUESTION, ANSWER) and number.isascii() and number.isdecimal():
        known["url"] = f"https://{host}/{kind[0]}/{number}"
    return known


class _Questions:
    """What answers need of their questions, packed: a million of them are held at once."""

    def __init__(self, rows: Iterator[Mapping[str, str]]) -> None:
        self._packed: dict[str, bytes] = {}
        for row in rows:
            if _kind(row) == QUESTION and "Id" in row:
                parts = (row.get(name, "")[:_PACKED_CHARS] for name in ("AcceptedAnswerId", "Tags", "Title"))
                self._packed.setdefault(row["Id"], "\0".join(parts).encode())

    def of(self, question: str, answer: str | None) -> dict[str, Any]:
        """Title and tags of an answer's question, and whether it accepted this one; {} for one that is not there."""
        packed = self._packed.get(question)
        if packed is None:
            return {}
        accepted, tags, title = packed.decode().split("\0")
        return {"Title": title, "Tags": tags, "accepted": accepted == answer}


class _Target:
    """Takes the rows out of the parser's hands as they begin; no tree is built."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "row":
            self.rows.append(dict(attributes))

    def close(self) -> None:
        """What the parser asks of a target."""


def _elements(path: str, data: io.BufferedReader) -> Iterator[dict[str, str]]:
    """The attributes of every row. A document type is refused unread, since only there can entities be declared and
    grow (huge_tree lifts the parser's own limits)."""
    files.check_utf16(path, data)
    if not _PROLOG.match(head := data.peek(1 << 16)):
        why = "it declares a document type" if b"<!DOCTYPE" in head else "it does not begin with an element"
        raise SourceError(f"{path} is no Posts.xml: {why}", fix="use Posts.xml of a StackExchange dump as it is")
    safe = {"resolve_entities": "internal", "no_network": True, "load_dtd": False, "huge_tree": True}
    target, waiting = _Target(), 0
    parser = etree.XMLParser(target=target, **safe)
    try:
        while chunk := data.read(1 << 16):
            parser.feed(chunk)
            waiting = 0 if target.rows else waiting + len(chunk)
            if waiting > limits.LONGEST_ROW:
                problem = f"{path} is no Posts.xml: a row {limits.too_long()}, or no row for as long"
                raise SourceError(problem, fix="use Posts.xml of a StackExchange dump as it is")
            rows, target.rows = target.rows, []
            yield from rows
        parser.close()
    except etree.XMLSyntaxError as err:
        raise SourceError(
            f"{path} is no well-formed XML: {files.words(err)}", fix="unpack or download it again"
        ) from err
