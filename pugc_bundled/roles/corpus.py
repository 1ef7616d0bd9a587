"""Posts, questions and judgments to learn from, split by document and by thread before anything else.

Every text belongs to a side: `train`; `test`, one document or thread in twenty by a hash of its key; or `unseen`, the
whole of the sources in `UNSEEN`, of which nothing is ever trained on. The same folder gives the same sides anywhere.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

Side = Literal["train", "test", "unseen"]

UNSEEN = (
    "stackexchange:ai.stackexchange.com",
    "stackexchange:coffee.stackexchange.com",
    "llmbar",
    "llmbar-processed",
    "prometheus-vicuna_eval",
)
TEST_SHARE = 20
"""One document or thread in so many is on the test side."""
SHORTEST, LONGEST = 40, 520
"""Words of a post: shorter ones are left out, longer ones end after the sentence in which they reach so many."""
_BLANKS = re.compile(r"[ \t]+")
_LINES = re.compile(r"\n{3,}")
_POINTS = re.compile(
    r"\b(?:text|passage|paragraph|excerpt|article|reference|context|sentence|following)\b", re.IGNORECASE
)
"""Of a question that points at the text beside it."""
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")


@dataclass(frozen=True)
class Post:
    """A text that somebody published, as the pipeline shows it.

    `question` is what a person asked to get it, where it is known; `answer` a person's short answer to that question.
    `votes` is the rank of its votes among the posts of its source, 0 to 1, where there are any. `key` names the
    document or the thread that decides the side.
    """

    text: str
    source: str
    kind: str
    key: str
    title: str = ""
    question: str = ""
    answer: str = ""
    votes: float | None = None

    @property
    def side(self) -> Side:
        return side_of(self.source, self.key)


@dataclass(frozen=True)
class Judgment:
    """A response with a reference, scored 1 to 5 by GPT-4 (mean of three)."""

    instruction: str
    response: str
    reference: str
    score: float
    source: str

    @property
    def side(self) -> Side:
        return side_of(self.source, self.instruction)


@dataclass(frozen=True)
class Preference:
    """Two responses with a reference, and which of them people preferred: "A" or "B"."""

    instruction: str
    responses: tuple[str, str]
    reference: str
    label: str
    source: str


def side_of(source: str, key: str) -> Side:
    """The side of whatever has this key."""
    if source in UNSEEN:
        return "unseen"
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % TEST_SHARE == 0 else "train"


def tidy(text: str) -> str:
    """`text` with single blanks and at most one empty line; code keeps its lines but not its columns."""
    text = text.replace("\r", "").replace("\u00a0", " ")
    return _LINES.sub("\n\n", "\n".join(_BLANKS.sub(" ", line).strip() for line in text.splitlines())).strip()


def begun(text: str, words: int) -> str:
    """The beginning of a text, to the end of the sentence in which it reaches `words` words."""
    count, start = 0, 0
    for match in _SENTENCE_END.finditer(text):
        count += len(text[start : match.start()].split())
        start = match.end()
        if count >= words:
            return text[: match.start()].strip()
    return text


def posts(data: Path) -> list[Post]:
    """Every post of the folder, in a fixed order."""
    return [*_ranked(_published(data / "ugc_open.parquet")), *_dialogues(data)]


def _published(path: Path) -> Iterator[tuple[Post, float | None]]:
    import polars

    for row in polars.read_parquet(path).iter_rows(named=True):
        text, title = tidy(row["text"]), tidy(row["title"] or "")
        if row["kind"] == "question" or len(text.split()) < SHORTEST:
            continue
        answers = row["kind"] == "answer"
        asked = title if answers and title.endswith("?") and 4 <= len(title.split()) <= 30 else ""
        # Over an answer stands the title of its question, which the pipeline does not show.
        shown = "" if answers or row["kind"] == "review" else title
        body = text[len(shown) :].lstrip() if shown and text.startswith(shown) else text
        whole = f"{shown}\n\n{begun(body, LONGEST)}" if shown else begun(body, LONGEST)
        post = Post(whole, row["source"], row["kind"], row["group"] or whole, title=shown, question=asked)
        yield post, row["score"] if answers else None


def _ranked(found: Iterator[tuple[Post, float | None]]) -> Iterator[Post]:
    """The posts with their votes as a rank within their source, ties in the middle."""
    every = list(found)
    of_source = defaultdict(list)
    for post, score in every:
        if score is not None:
            of_source[post.source].append(score)
    for post, score in every:
        if score is None:
            yield post
            continue
        scores = of_source[post.source]
        below, equal = sum(s < score for s in scores), sum(s == score for s in scores)
        yield replace(post, votes=(below + equal / 2) / len(scores))


def _dialogues(data: Path) -> Iterator[Post]:
    for name in ("dolly15k", "oasst_en100"):
        for row in _lines(data / f"{name}.jsonl.gz"):
            question, context, answer = tidy(row["instruction"]), tidy(row["context"] or ""), tidy(row["response"])
            text = context or answer
            if not (3 <= len(question.split()) <= 40) or len(text.split()) < SHORTEST or "\n" in question:
                continue
            if context and _POINTS.search(question):
                continue
            source = f"{name}:passage" if context else f"{name}:answer"
            text = begun(re.sub(r"\[\d{1,3}\]", "", text), LONGEST)
            yield Post(text, source, "passage" if context else "answer", context or question, "", question, answer)


def judgments(data: Path) -> list[Judgment]:
    """The pointwise judgments of GPT-4."""
    import polars

    rows = polars.read_parquet(data / "judged_pointwise_open.parquet").iter_rows(named=True)
    return [
        Judgment(tidy(r["instruction"]), tidy(r["response"]), tidy(r["reference"]), r["score"], r["source"])
        for r in rows
        if r["reference"]
    ]


def preferences(data: Path) -> list[Preference]:
    """The pairs with a reference that people have judged, without ties. All of them are of unseen sources."""
    import polars

    rows = polars.read_parquet(data / "judged_pairs_open.parquet").iter_rows(named=True)
    return [
        Preference(
            tidy(r["prompt"]),
            (tidy(r["response_a"]), tidy(r["response_b"])),
            tidy(r["reference"]),
            r["label"],
            r["source"],
        )
        for r in rows
        if r["reference"] and r["label"] in ("A", "B")
    ]


def of(side: Side, found: Sequence[Post]) -> list[Post]:
    """The posts of one side."""
    return [post for post in found if post.side == side]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
