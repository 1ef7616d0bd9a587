"""StackExchange's Posts.xml: answers know their questions, and what is no post is told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from pugc_core.errors import SourceError
from pugc_core.stages.sources import Raw, limits, read
from pugc_core.stages.sources.stackexchange import license_of, site

QUESTION = {"Id": "4", "PostTypeId": "1", "Title": "A < B & C", "Tags": "|a|b|", "AcceptedAnswerId": "7"}
ANSWER = {"Id": "7", "PostTypeId": "2", "ParentId": "4", "Score": "3"}


def rows(path: Path, *elements: dict[str, str]) -> list[Raw]:
    lines = ["<row " + " ".join(f"{k}={quoteattr(v)}" for k, v in row.items()) + " />" for row in elements]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\ufeff<!-- dump -->\n<posts>" + "\n".join(lines) + "</posts>")
    return list(read(str(path)))


def test_bodies_become_text(tmp_path: Path) -> None:
    code = "<pre><code>for x in y:\n    print(x)\n</code></pre>"
    body = f"<p>Why does <em>this</em> fail?</p>\n{code}\n<p>Thanks &amp; bye</p>"
    steps = "<ol>\n<li>Stop.</li>\n<li><p>Breathe.</p></li>\n</ol>\n<ul><li>tea<ul><li>green</li></ul></li></ul>"
    found = rows(tmp_path / "Posts.xml", QUESTION | {"Body": body}, ANSWER | {"Body": steps})
    assert [row.fields and row.fields["Body"] for row in found] == [
        "Why does this fail?\n\nfor x in y:\n    print(x)\n\n\nThanks & bye",
        "1. Stop.\n2. Breathe.\n\n- tea\n  - green",
    ]


def test_an_answer_carries_its_question_wherever_that_stands(tmp_path: Path) -> None:
    other = {"Id": "8", "PostTypeId": "2", "ParentId": "4"}
    orphan = {"Id": "9", "PostTypeId": "2", "ParentId": "1000"}
    at = tmp_path / "coffee.stackexchange.com"
    wanted: list[dict[str, Any]] = [
        {"kind": "answer", "thread": "4", "Title": "A < B & C", "Tags": "|a|b|", "accepted": True, "Score": "3"},
        {"kind": "answer", "thread": "4", "Title": "A < B & C", "Tags": "|a|b|", "accepted": False},
        {"kind": "answer", "thread": "1000"},
        {"kind": "question", "thread": "4", "Title": "A < B & C", "Tags": "|a|b|"},
    ]
    letters = ("a/7", "a/8", "a/9", "q/4")
    for elements in ((ANSWER, other, orphan, QUESTION), (QUESTION, ANSWER, other, orphan)):
        found = sorted((row.fields or {} for row in rows(at / "Posts.xml", *elements)), key=lambda f: f["url"])
        sources = [ANSWER, other, orphan, QUESTION]
        for fields, source, extra, letter in zip(found, sources, wanted, letters, strict=True):
            host = {"source": "coffee.stackexchange.com", "url": f"https://coffee.stackexchange.com/{letter}"}
            assert fields == source | extra | host


def test_what_is_no_post_is_named(tmp_path: Path) -> None:
    kinds = [{"Id": str(n), "PostTypeId": n, "Body": "<p>words</p>"} for n in ("3", "4", "5", "6", "7", "8", "12")]
    comment = {"Id": "1", "PostId": "4", "Text": "Thanks!"}
    own = {"text": "a file of somebody's own"}
    found = rows(tmp_path / "Posts.xml", QUESTION, ANSWER, *kinds, comment, own)
    assert [row.other for row in found] == [
        None,
        None,
        "wiki",
        "tag wiki excerpt",
        "tag wiki",
        "moderator nomination",
        "wiki placeholder",
        "privilege wiki",
        "post of type 12",
        "comment",
        None,
    ]
    assert found[-1].fields == own


def test_licence_by_date_unless_the_row_says(tmp_path: Path) -> None:
    dates = {
        "2008-08-01T00:00:00.000": "CC BY-SA 2.5",
        "2011-04-07T23:59:59.999": "CC BY-SA 2.5",
        "2011-04-08T00:00:00.000": "CC BY-SA 3.0",
        "2018-05-01T23:59:59.999": "CC BY-SA 3.0",
        "2018-05-02T00:00:00.000": "CC BY-SA 4.0",
        "9999-12-31": "CC BY-SA 4.0",
        "yesterday": None,
        "": None,
    }
    assert {date: license_of(date) for date in dates} == dates
    dated = ANSWER | {"CreationDate": "2012-01-01T00:00:00.000"}
    found = rows(
        tmp_path / "Posts.xml",
        dated,
        dated | {"ContentLicense": "CC BY-SA 4.0"},
        ANSWER,
        dated | {"ContentLicense": ""},
    )
    assert [(row.fields or {}).get("ContentLicense") for row in found] == [
        "CC BY-SA 3.0",
        "CC BY-SA 4.0",
        None,
        "CC BY-SA 3.0",
    ]


def test_the_site_is_read_from_the_path_and_not_invented() -> None:
    known = {
        "/d/coffee.stackexchange.com/Posts.xml": "coffee.stackexchange.com",
        "s3://b/datascience.meta.stackexchange.com/Posts.xml.gz": "datascience.meta.stackexchange.com",
        "inbox/coffee-stackexchange-com.xml": "coffee.stackexchange.com",
        "inbox/stackoverflow.com-Posts.xml": "stackoverflow.com",
        "inbox/es.stackoverflow.com/posts.xml": "es.stackoverflow.com",
        "Meta.MathOverflow.net/Posts.xml": "meta.mathoverflow.net",
        "inbox/Posts.xml": None,
        "coffee.stackexchange.com/old/Posts.xml": None,
        "inbox/my-coffee-dump-stackexchange-com.xml": None,
        "inbox/example.com-Posts.xml": None,
    }
    assert {path: site(path) for path in known} == known


def test_rows_that_never_end_and_rows_of_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LONGEST_ROW", 100_000)
    path = tmp_path / "Posts.xml"
    for filler in ("<!--" + "x" * 300_000 + "-->", "<a/>" * 100_000, '<row Body="' + "x" * 300_000 + '"/>'):
        path.write_text(f'<posts><row Body="x"/>{filler}</posts>')
        with pytest.raises(SourceError, match="a row longer than 100,000 bytes, or no row for as long"):
            list(read(str(path)))
    attributes = {f"a{i}": "" for i in range(2001)}
    first, second = rows(path, attributes, ANSWER)
    assert (first.fields, first.problem) == (None, "2,001 columns, more than 2,000")
    assert second.fields
