"""Documents to learn from: read from a folder of open data, cleaned, and split into train and test first of all.

The split is by a hash of the document's own text (or of the title or article that several documents share), so that it
is the same on every machine and no test document is ever seen. Without a folder, the bundled sample posts stand in:
enough to run the script, not to learn anything from.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pugc_core

TEST_SHARE = 20  # one document in twenty is kept for testing
MARKUP = 3  # a document with this many code or formula marks is left out
_FOOTNOTE = re.compile(r"\[\d{1,3}\]|\[citation needed\]", re.IGNORECASE)
_MARKS = re.compile(r"[$`{}\\|]|\n {4}")


@dataclass(frozen=True)
class Document:
    """A text with, where there is one, the question that it answers and a short answer to it.

    `kind` is "post" (written by users), "answer" (a person's reply), "passage" (text beside a question), "plain" or
    "simple" (plain text for learners and children).
    """

    text: str
    kind: str
    key: str
    question: str = ""
    answer: str = ""
    title: str = ""

    @property
    def is_test(self) -> bool:
        return int(hashlib.sha256(self.key.encode()).hexdigest(), 16) % TEST_SHARE == 0


class Split(NamedTuple):
    """The two sides, documents in a fixed order."""

    train: list[Document]
    test: list[Document]


def clean(text: str) -> str:
    """`text` without footnote marks, with at most one blank line and single spaces."""
    text = _FOOTNOTE.sub("", text.replace("\r", ""))
    text = re.sub(r"[ \t]+", " ", re.sub(r" *\n *", "\n", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def load(data: Path | None) -> Split:
    """Every document of the folder (or of the bundled sample), split."""
    documents = list(_folder(data)) if data else list(_sample())
    if not documents:
        raise FileNotFoundError(f"no training data in {data}")
    if data is None:  # so few that a hash may leave one side empty
        return Split(documents[::2], documents[1::2])
    return Split([d for d in documents if not d.is_test], [d for d in documents if d.is_test])


def _folder(data: Path) -> Iterator[Document]:
    yield from _posts(data / "ugc_open.parquet")
    for name in ("dolly15k", "self_instruct_seed", "oasst_en100"):
        yield from _dialogues(data / f"{name}.jsonl.gz")
    for name in ("onestopenglish", "childrens_stories"):
        for row in _lines(data / f"{name}.jsonl.gz"):
            article = re.sub(r"-(?:adv|int|ele)$", "", row["id"])
            yield Document(clean(row["text"]), "simple", key=article)


def _posts(path: Path) -> Iterator[Document]:
    import polars

    for row in polars.read_parquet(path).iter_rows(named=True):
        if row["kind"] == "question" or len(_MARKS.findall(row["text"])) >= MARKUP:
            continue
        kind = "plain" if row["kind"] == "review" else "post"
        title = clean(row["title"] or "")
        text = clean(row["text"])
        yield Document(text, kind, key=title or text, question=_as_question(title, row["kind"]), title=title)


def _as_question(title: str, kind: str) -> str:
    """The question behind a title, empty when the title does not give one away."""
    if title.endswith("?"):
        return title if 4 <= len(title.split()) <= 30 else ""
    if not title or len(title.split()) > 9:
        return ""
    if kind == "recipe":
        return f"How do I make {title.lower()}?"
    return f"What should I know about {title}?" if kind == "tutorial" else ""


def _dialogues(path: Path) -> Iterator[Document]:
    for row in _lines(path):
        question, context, answer = clean(row["instruction"]), clean(row["context"]), clean(row["response"])
        if not question or not answer or len(question.split()) > 40 or len(_MARKS.findall(context + answer)) >= MARKUP:
            continue
        if context:
            yield Document(context, "passage", key=context, question=question, answer=answer)
        else:
            yield Document(answer, "answer", key=answer, question=question, answer=answer)


def _sample() -> Iterator[Document]:
    folder = Path(pugc_core.__file__).parent / "sample"
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] == "question":
                continue
            text, title = clean(row["body"]), row["title"] or ""
            about = f"What should I know about {title.lower()}?" if title else ""
            question = title if title.endswith("?") else about
            yield Document(text, "post", key=text, question=question, answer=text if question else "")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
