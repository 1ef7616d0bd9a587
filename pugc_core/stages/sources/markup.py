"""HTML as plain text."""

from __future__ import annotations

import html
import re

import lxml.html
from lxml import etree

_GAPS = dict.fromkeys(("p", "pre", "ul", "ol", "blockquote", "table", "hr", *(f"h{n}" for n in range(1, 7))), 2)
_GAPS |= dict.fromkeys(("div", "section", "article", "tr", "li", "dt", "dd"), 1)
_DOCUMENT = re.compile(r"</?(?:html|head|body)\b[^<>]*>", re.IGNORECASE)
_LARGEST = 200_000
"""Characters of HTML that are parsed; posts have tens of thousands. Some of it costs the parser time squared."""
_LONG_TAG = re.compile(r"<[A-Za-z][^<>]{4000}")
_MOST_INDENTED = 10


def html_to_text(source: str) -> str:
    """The text of a piece of HTML: paragraphs parted by blank lines, list items and lines of code kept as lines.

    What is too large for a post, or nested too deep, only has its tags replaced by line breaks.
    """
    if len(source) > _LARGEST or _LONG_TAG.search(source):
        return _without_tags(source)
    parser = lxml.html.HTMLParser(
        encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True
    )
    whole = f"<div>{_DOCUMENT.sub('', source)}</div>"  # what follows a stray </body> would be lost
    root = lxml.html.document_fromstring(whole.encode(), parser=parser)
    if any("depth" in entry.message for entry in parser.error_log):  # and so would what is nested too deep
        return _without_tags(source)
    text = _Text()
    for event, element in etree.iterwalk(root, events=("start", "end")):
        text.tag(element.tag, event == "start")
        text.say((element.text if event == "start" else element.tail) or "")
    return "".join(text.parts).strip("\n")


def _without_tags(source: str) -> str:
    return html.unescape(re.sub(r"<[^<>]*>", "\n", source)).strip()


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
            self._marker = "  " * min(len(self._lists) - 1, _MOST_INDENTED) + bullet if start else ""
        elif name in ("td", "th") and start and not self._breaks:
            self.say(" | ")

    def say(self, text: str) -> None:
        text = text if self._code else re.sub(r"\s+", " ", text)
        if self._breaks or not self.parts or self.parts[-1].endswith((" ", "\n")):
            text = text if self._code else text.lstrip()
        if text and not self._hidden:
            self.parts.append("\n" * self._breaks * bool(self.parts) + self._marker + text)
            self._breaks, self._marker = 0, ""
