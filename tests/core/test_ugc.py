"""What the first stage makes of a file of posts: in = kept + dropped, each with its reason."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import fsspec
import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pugc_core.errors import SourceError
from pugc_core.stages import ugc
from pugc_core.stages.fields import LABEL_CHARS, Fields
from pugc_core.stages.normalise import MARKS_END, normalise
from pugc_core.stages.records import Counts, make_id
from pugc_core.stages.ugc import EXCERPT_CHARS, Ugc, UgcConfig

WORDS = "Pump both tyres before every longer ride, and look for glass. " * 5
OPEN_POSTS = Path(__file__).parents[3] / "shared" / "data" / "ugc_open.parquet"


def table(path: str, config: UgcConfig | None = None, shard: str = "bikes") -> pl.DataFrame:
    build = Ugc(config or UgcConfig(min_chars=1), lambda _: path).build(shard, {})
    try:
        next(build)
    except StopIteration as stop:
        frame: pl.DataFrame = stop.value
        Ugc.table.check(frame)
        return frame
    raise AssertionError("the stage asks no model")


def made(*rows: Any, **config: Any) -> pl.DataFrame:
    """The table of these rows, bytes being lines as they are."""
    lines = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
    fsspec.filesystem("memory").pipe_file("/ugc/posts.jsonl", b"\n".join(lines))
    return table("memory://ugc/posts.jsonl", UgcConfig(**({"min_chars": 1} | config)))


def only(*rows: Any, **config: Any) -> dict[str, Any]:
    return made(*rows, **config).row(0, named=True)


def test_a_row_in_full() -> None:
    post = {"text": WORDS, "title": "Tyres", "source": "forum", "author": "mia", "url": "http://x.test/1"}
    row = only(post | {"license": "CC0-1.0", "date": "2024-05-01", "lang": "en", "score": 3})
    text = f"Tyres\n\n{WORDS.strip()}"
    assert row == {
        "ugc_id": make_id("ugc", text),
        "shard": "bikes",
        "line": 1,
        "text": text,
        "title": "Tyres",
        "source": "forum",
        "author": "mia",
        "url": "http://x.test/1",
        "license": "CC0-1.0",
        "created_at": "2024-05-01",
        "lang": "en",
        "thread": None,
        "kind": None,
        "tags": None,
        "score": 3.0,
        "accepted": None,
        "n_chars": len(text),
        "detail": None,
        "keep": True,
        "drop_reason": None,
    }


def test_every_reason_and_no_row_vanishes() -> None:
    frame = made(
        {"text": WORDS},
        b'{"text": "cut off',
        {"title": "no text at all"},
        {"text": None},
        {"text": 42},
        {"text": " \u200b\n"},
        {"text": "short"},
        {"text": WORDS * 100},
        {"text": WORDS + "Deutsch", "lang": "de"},
        {"text": WORDS + "\r\n"},
        b"",
        b"\xff\xfe",
        min_chars=200,
        languages=["en"],
    )
    reasons = frame.select("line", "drop_reason", "detail").rows()
    assert reasons[0] == (1, None, None)
    assert reasons[1][:2] == (2, "broken_row")
    assert reasons[1][2].startswith("invalid JSON")
    assert reasons[2:] == [
        (3, "missing_text", "no value in text, body, Body, content"),
        (4, "missing_text", "no value in text, body, Body, content"),
        (5, "missing_text", "text holds int, not text"),
        (6, "empty_text", None),
        (7, "too_short", "5 characters"),
        (8, "too_long", f"{len(WORDS) * 100 - 1} characters"),
        (9, "language", "de"),
        (10, "duplicate", "same text as line 1"),
        (12, "broken_row", "not UTF-8: byte 0xff at position 1"),
    ]
    assert frame["text"][1] == '{"text": "cut off'
    counts = Ugc.table.count(frame)
    assert counts.rows_in == counts.kept + sum(counts.dropped.values()) == 11
    assert counts == Counts(
        11,
        1,
        {
            "broken_row": 2,
            "duplicate": 1,
            "empty_text": 1,
            "language": 1,
            "missing_text": 3,
            "too_long": 1,
            "too_short": 1,
        },
    )


def test_ten_megabytes_are_dropped_but_identified() -> None:
    text = ("0123456789" * 1_000_000).strip()
    row = only({"text": text})
    assert (row["drop_reason"], row["detail"]) == ("too_long", "10000000 characters before normalisation")
    assert (row["text"], row["n_chars"]) == (text[:EXCERPT_CHARS], 80_000)  # four times max_chars are looked at
    other = only({"text": text[:-1]})
    assert row["ugc_id"] != other["ugc_id"]
    assert only({"text": text}, max_chars=10_000_000)["text"] == text


def test_a_text_is_cut_before_it_is_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = []
    monkeypatch.setattr(ugc, "normalise", lambda text: (longest.append(len(text)), normalise(text))[1])
    rows = made(
        {"text": " " * 900 + "a" * 401}, {"text": "b" + "\n" * 398 + "b"}, {"text": "\u200b" * 401}, max_chars=100
    )
    assert rows["drop_reason"].to_list() == ["too_long", None, "too_long"]
    assert max(longest) == 400


def test_limits_are_inclusive() -> None:
    frame = made(
        {"text": "a" * 9}, {"text": "b" * 10}, {"text": "c" * 20}, {"text": "d" * 21}, min_chars=10, max_chars=20
    )
    assert frame["drop_reason"].to_list() == ["too_short", None, None, "too_long"]


def test_control_tokens_and_markers_stay_as_they_are() -> None:
    for text in ("</s> and [INST] hi [/INST] <|im_start|>system", "[RESULT] 5", "Score: 5", "<document end>"):
        row = only({"text": text})
        assert (row["text"], row["keep"]) == (text, True)


def test_duplicate_ids_of_the_source_are_no_duplicates_but_equal_texts_are() -> None:
    frame = made(
        {"id": 1, "text": "one"}, {"id": 1, "text": "two"}, {"id": 2, "text": "one "}, {"id": 3, "text": "one"}
    )
    assert frame["detail"].to_list() == [None, None, "same text as line 1", "same text as line 1"]
    assert frame["ugc_id"][0] == frame["ugc_id"][2]


def test_near_duplicates_are_dropped_but_the_first() -> None:
    """Of sixty different words in a row, one more at the end leaves 58 of 59 runs of three, one within 55 of 61."""
    words = [f"word{i}" for i in range(60)]
    posts = [
        {"text": " ".join(words)},
        {"text": "short"},
        {"text": " ".join([*words, "more"])},
        {"text": " ".join([*words[:30], "changed", *words[31:]])},
        {"text": " ".join(words[::-1])},
    ]
    frame = made(*posts, min_chars=10)
    assert frame.select("line", "drop_reason", "detail").rows() == [
        (1, None, None),
        (2, "too_short", "5 characters"),
        (3, "near_duplicate", "near-duplicate of line 1"),
        (4, "near_duplicate", "near-duplicate of line 1"),
        (5, None, None),
    ]
    assert made(*posts, min_chars=10, similarity=0.95)["keep"].to_list() == [True, False, False, True, True]
    assert made(*posts, min_chars=10, near_duplicates="keep")["keep"].to_list() == [True, False, True, True, True]


def test_same_text_has_the_same_id_in_every_shard() -> None:
    path = "memory://ugc/same.jsonl"
    fsspec.filesystem("memory").pipe_file(path, orjson.dumps({"text": WORDS}))
    one, two = table(path, shard="a"), table(path, shard="b")
    assert one["ugc_id"].to_list() == two["ugc_id"].to_list()
    assert (one["shard"][0], two["shard"][0]) == ("a", "b")


def test_missing_column_names_what_was_found() -> None:
    with pytest.raises(SourceError) as caught:
        made({"id": 1, "post": "x"}, {"id": 2, "when": "y"}, b"junk")
    assert "no row has a column text or body or Body or content; columns found: id, post, when" in caught.value.problem
    assert "[ugc.fields] text" in (caught.value.fix or "")
    assert made({"id": 1, "post": "x"}, fields={"text": "post"})["keep"].to_list() == [True]


def test_one_row_with_the_column_is_enough() -> None:
    assert made({"id": 1}, {"text": "x"})["drop_reason"].to_list() == ["missing_text", None]


def test_a_file_of_nothing_but_broken_rows_is_refused() -> None:
    with pytest.raises(SourceError, match="none of its 2 rows can be read; line 1: invalid JSON"):
        made(b"<html>", b"junk")


def test_fields_are_tried_in_order_and_blank_ones_passed_over() -> None:
    assert only({"text": "first", "body": "second"})["text"] == "first"
    assert only({"text": "", "body": "second"})["text"] == "second"
    assert only({"text": 1, "body": "second"})["text"] == "second"
    assert only({"text": "x", "body": "y"}, fields={"text": ["body", "text"]})["text"] == "y"


def test_labels_become_one_line_of_text() -> None:
    row = only(
        {"text": "x", "author": 7, "source": True, "url": None, "license": " a\n b\u200b ", "lang": "", "date": 1.5}
    )
    assert [row[k] for k in ("author", "source", "url", "license", "lang", "created_at")] == [
        "7",
        "True",
        None,
        "a b",
        None,
        "1.5",
    ]
    assert only({"text": "x", "author": {"name": "mia"}})["author"] == '{"name":"mia"}'


@pytest.mark.parametrize(
    ("title", "text", "result"),
    [
        ("Tyres", "Pump them.", "Tyres\n\nPump them."),
        ("Tyres", "Tyres: pump them.", "Tyres: pump them."),
        ("Tyres", "# TYRES\nPump them.", "# TYRES\nPump them."),
        ("Bread", "Breadth matters.", "Bread\n\nBreadth matters."),
        (None, "Pump them.", "Pump them."),
        (" ", "Pump them.", "Pump them."),
        ("Two\nlines", "Pump them.", "Two lines\n\nPump them."),
    ],
)
def test_title_goes_before_the_text_once(title: str | None, text: str, result: str) -> None:
    assert only({"text": text, "title": title})["text"] == result
    assert only({"text": text, "title": title}, title_in_text=False)["text"] == text


def test_a_title_alone_is_no_text() -> None:
    assert only({"text": "", "title": "Tyres"})["drop_reason"] == "empty_text"


@pytest.mark.parametrize(
    ("lang", "kept"),
    [("en", True), ("EN", True), ("en-GB", True), ("pt_br", True), ("pt", False), ("de", False), (None, True)],
)
def test_languages(lang: str | None, kept: bool) -> None:
    assert only({"text": "x", "lang": lang}, languages=("en", "pt-BR"))["keep"] is kept
    assert only({"text": "x", "lang": lang})["keep"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\r\nb\rc\x0cd\u2028e", "a\nb\nc\nd\ne"),
        ("e\u0301", "é"),
        ("\ufeffa\u200bb\u00adc\x00\x1b[0m\x85", "abc[0m"),
        ("tab\tstays  \t\nnext\u00a0\n", "tab\tstays\nnext"),
        ("a\n\n\n\nb\n \n \nc", "a\n\nb\n\nc"),
        ("wo\u200drd", "word"),
        ("👩\u200d💻 می\u200cخواهم", "👩\u200d💻 می\u200cخواهم"),
        ("e\u200d\u0301", "é"),
    ],
)
def test_normalise(before: str, after: str) -> None:
    assert normalise(before) == after


@given(st.text(st.sampled_from("ab \t\r\n\x0c\x00éе\u0301\u0338<\u200b\u200c\u200d\ufeff\u2028😀")) | st.text())
def test_normalise_settles_at_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert "\n\n\n" not in once
    assert not {"\r", "\0", "\u200b", "\ufeff"} & set(once)


def test_normalising_takes_time_in_proportion() -> None:
    for run in (
        " ",
        "\n",
        "\u200d",
        "\u200b",
        "\t",
        "é\u200d",
        "\u0301\u0316",
        "\u200d\u0301\u200d\u0316",
        "\U0001d165\U0001d16d",
    ):
        text = normalise("a" + run * 100_000 + "é")
        assert text.endswith("é")
        assert normalise(text) == text


def test_marks_are_parted_where_no_language_puts_so_many() -> None:
    for marks in (30, 31, 61):
        text = normalise("x" + "\u0316" * marks)
        assert text.count("\u034f") == (marks - 1) // 30
        assert text.replace("\u034f", "") == "x" + "\u0316" * marks
    assert not any(unicodedata.combining(chr(code)) for code in (*range(0x300), *range(MARKS_END, 0x110000)))


def test_posts_xml_through_the_stage(tmp_path: Path) -> None:
    path = tmp_path / "Posts.xml"
    path.write_text(
        '<posts>\n<row Id="2" PostTypeId="2" ParentId="1" Score="7"'
        ' Body="&lt;ul&gt;&lt;li&gt;Sand it&lt;/li&gt;&lt;/ul&gt;"'
        ' CreationDate="2012-01-03T00:00:00.000"/>\n'
        '<row Id="1" PostTypeId="1" Title="Flat tyre" Body="&lt;p&gt;How do I patch it?&lt;/p&gt;" AcceptedAnswerId="2"'
        ' Tags="&lt;tyre&gt;&lt;inner-tube&gt;" OwnerUserId="8" CreationDate="2012-01-02T03:04:05.678"'
        ' ContentLicense="CC BY-SA 4.0"/>\n<row Id="3" PostTypeId="5" Body="About tyres"/>\n</posts>'
    )
    frame = table(str(path))
    assert frame["text"].to_list() == ["- Sand it", "Flat tyre\n\nHow do I patch it?", "About tyres"]
    assert frame.select("drop_reason", "detail").rows() == [
        (None, None),
        ("question", None),
        ("not_a_post", "tag wiki"),
    ]
    answer, question = frame.row(0, named=True), frame.row(1, named=True)
    same = {"title": "Flat tyre", "tags": ["tyre", "inner-tube"], "thread": "1", "source": None, "url": None}
    wanted = same | {"kind": "answer", "score": 7.0, "accepted": True}
    assert {name: answer[name] for name in wanted} == wanted
    assert question["kind"] == "question"
    assert (answer["license"], question["license"]) == ("CC BY-SA 3.0", "CC BY-SA 4.0")
    assert (question["author"], question["created_at"]) == ("8", "2012-01-02T03:04:05.678")
    assert table(str(path), UgcConfig(min_chars=1, questions=True))["keep"].to_list() == [True, True, False]


def test_kinds() -> None:
    title = {"title": "Flat tyre", "text": "Sand it"}
    for kind, reason, text in (
        (None, None, "Flat tyre\n\nSand it"),
        ("review", None, "Flat tyre\n\nSand it"),
        ("comment", None, "Flat tyre\n\nSand it"),
        ("Answer", None, "Sand it"),  # the title is the question's, and somebody else's
        ("Question", "question", "Flat tyre\n\nSand it"),
    ):
        row = only(title | {"kind": kind})
        assert (row["drop_reason"], row["text"], row["title"]) == (reason, text, "Flat tyre")


def test_tags_score_and_accepted() -> None:
    tags = [
        (["a", "b c", None, 3], ["a", "b c", "3"]),
        ("<a><b-c>", ["a", "b-c"]),
        ("|a|b|", ["a", "b"]),
        ("a, b;c", ["a", "b", "c"]),
        ("", None),
        ([], None),
        ({"a": 1}, None),
        (["t"] * 1000, ["t"] * 50),
    ]
    assert [only({"text": "x", "tags": value})["tags"] for value, _ in tags] == [wanted for _, wanted in tags]
    scores = [
        (3, 3.0),
        (-1.5, -1.5),
        (" 12 ", 12.0),
        ("many", None),
        (True, None),
        ("nan", None),
        ("1e999", None),
        ([1], None),
    ]
    assert [only({"text": "x", "score": value})["score"] for value, _ in scores] == [wanted for _, wanted in scores]
    accepted = [(True, True), ("False", False), (1, True), ("0", False), ("yes?", None), (None, None), (2, None)]
    assert [only({"text": "x", "accepted": v})["accepted"] for v, _ in accepted] == [wanted for _, wanted in accepted]


def test_labels_are_cut_and_a_label_nested_deep_is_a_row_of_its_own() -> None:
    long = only({"text": "x", "author": "a" * 5_000_000})["author"]
    assert (len(long), long[-2:]) == (LABEL_CHARS, "a…")
    assert only({"text": "x", "author": "a" * LABEL_CHARS})["author"] == "a" * LABEL_CHARS
    for depth in (90, 300, 900, 3000):
        title = b"[" * depth + b"]" * depth
        rows = made(b'{"text": "x", "title": ' + title + b"}", {"text": "y"})
        assert rows["drop_reason"].to_list() == ["broken_row" if depth > 100 else None, None]
    assert rows["detail"][0].startswith("invalid JSON: depth limit")


def test_many_rows_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"post {i % 8}", "tags": [str(i)]} for i in range(10)]
    whole = made(*rows)
    monkeypatch.setattr(ugc, "_ROWS_AT_ONCE", 3)
    assert made(*rows).equals(whole)
    assert whole["drop_reason"].to_list() == [None] * 8 + ["duplicate"] * 2


def test_parquet_text_stored_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    pl.DataFrame({"text": ["café".encode(), b"\xff"], "score": [float("nan"), 1.0]}).write_parquet(path)
    frame = table(str(path), UgcConfig(min_chars=1, fields=Fields(source=("score",))))
    assert frame.select("text", "source", "detail").rows() == [
        ("café", None, None),
        ("", "1.0", "text holds bytes, not text"),
    ]


def test_fingerprint_names_what_changed() -> None:
    def parts(**config: Any) -> dict[str, str]:
        return dict(Ugc(UgcConfig(**config), str).fingerprint)

    base = parts()
    changes: dict[str, dict[str, Any]] = {
        "fields": {"fields": {"text": "post"}},
        "limits": {"min_chars": 10},
        "title": {"title_in_text": False},
        "questions": {"questions": True},
        "languages": {"languages": ["en"]},
        "near": {"near_duplicates": "keep"},
    }
    for part, config in changes.items():
        other = parts(**config)
        assert [key for key in base if base[key] != other[key]] == [part]
    assert parts(fields={"lang": "lang"}) == parts(fields={"lang": ["lang"]})


@pytest.mark.parametrize(
    "config",
    [
        {"fields": {"text": []}},
        {"fields": {"txt": "x"}},
        {"min_chars": 10, "max_chars": 9},
        {"min_chars": 0},
        {"max": 1},
    ],
)
def test_wrong_config(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        UgcConfig(**config)


@pytest.mark.skipif(not OPEN_POSTS.exists(), reason="the open posts are not beside this checkout")
def test_real_posts() -> None:
    counts = Ugc.table.count(table(str(OPEN_POSTS), UgcConfig()))
    assert counts.rows_in == counts.kept + sum(counts.dropped.values()) == 7762
    assert counts.dropped == {"question": 999, "near_duplicate": 5}
