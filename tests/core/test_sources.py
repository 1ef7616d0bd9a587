"""Every format read, every broken row handed on, every broken file refused."""

from __future__ import annotations

import csv
import gzip
import io
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pugc_core.errors import SourceError
from pugc_core.stages.sources import RAW_CHARS, SUFFIXES, Raw, check_shard, html_to_text, read, shard_name

ROWS = [{"id": "1", "text": "A bike\nneeds air — ünïcödé"}, {"id": "2", "text": 'She said "stop", twice'}]
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def jsonl(rows: list[dict[str, str]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def comma(rows: list[dict[str, str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def xml(rows: list[dict[str, str]]) -> bytes:
    from xml.sax.saxutils import quoteattr

    lines = ["<row " + " ".join(f"{k}={quoteattr(v)}" for k, v in row.items()) + " />" for row in rows]
    return "\n".join(['<?xml version="1.0" encoding="utf-8"?>', "<posts>", *lines, "</posts>"]).encode()


ENCODE = {".jsonl": jsonl, ".ndjson": jsonl, ".json": jsonl, ".csv": comma, ".xml": xml}


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def rows(self, name: str, data: bytes) -> list[Raw]:
        return list(read(self.put(name, data)))

    def refused(self, name: str, data: bytes) -> SourceError:
        with pytest.raises(SourceError) as caught:
            self.rows(name, data)
        assert name in caught.value.problem
        assert caught.value.fix
        return caught.value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(place: Place, suffix: str) -> None:
    if suffix == ".parquet":
        data = parquet(pa.Table.from_pylist(ROWS))
    else:
        kind, pack = next((k, suffix.removeprefix(k)) for k in ENCODE if suffix.removeprefix(k) in PACK)
        data = PACK[pack](ENCODE[kind](ROWS))
    rows = place.rows("posts" + suffix.upper(), data)
    assert [row.fields for row in rows] == ROWS
    assert all(row.problem is None for row in rows)


def test_memory_path() -> None:
    fsspec.filesystem("memory").pipe_file("/inbox/posts.jsonl.zst", zstandard.compress(jsonl(ROWS)))
    assert [row.fields for row in read("memory://inbox/posts.jsonl.zst")] == ROWS


def test_several_frames_and_members_are_one_file(place: Place) -> None:
    for suffix in (".gz", ".zst"):
        data = PACK[suffix](jsonl(ROWS[:1])) + PACK[suffix](jsonl(ROWS[1:]))
        assert [row.fields for row in place.rows("posts.jsonl" + suffix, data)] == ROWS


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_byte_order_mark_and_crlf_are_accepted(place: Place, kind: str) -> None:
    rows = [{"text": "one"}, {"text": "two"}]
    data = b"\xef\xbb\xbf" + ENCODE[kind](rows).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert [row.fields for row in place.rows("posts" + kind, data)] == rows


def test_broken_json_rows_keep_line_and_text(place: Place) -> None:
    data = (
        b'{"text": "ok"}\n\n  \r\n{"text": "cut\n[1, 2]\n"word"\n{"text": "caf\xe9"}\n{"text": "\\ud800"}\n{"text": ""}'
    )
    rows = place.rows("posts.jsonl", data)
    assert [row.line for row in rows] == [1, 4, 5, 6, 7, 8, 9]
    assert [row.fields is None for row in rows] == [False, True, True, True, True, True, False]
    problems = [row.problem or "" for row in rows]
    assert problems[1].startswith("invalid JSON: ")
    assert problems[2:5] == [
        "JSON, but no object: list",
        "JSON, but no object: str",
        "not UTF-8: byte 0xe9 at position 14",
    ]
    assert rows[1].raw == '{"text": "cut'
    assert rows[4].raw == '{"text": "caf\ufffd"}'


def test_raw_of_a_broken_row_is_cut(place: Place) -> None:
    broken = place.rows("posts.jsonl", b'{"text": "ok"}\n' + "é".encode() * 10_000)[1]
    assert broken.raw == "é" * RAW_CHARS


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode), st.just(b'{"text": 1}'))))
def test_every_junk_line_is_a_row(lines: list[bytes]) -> None:
    lines = [b'{"text": "ok"}', *(line.replace(b"\n", b"") for line in lines)]
    path = f"memory://junk/{uuid.uuid4().hex}.jsonl"
    fsspec.filesystem("memory").pipe_file(path, b"\n".join(lines))
    rows = list(read(path))
    fsspec.filesystem("memory").rm_file(path)
    assert [row.line for row in rows] == [number for number, line in enumerate(lines, 1) if line.strip()]
    assert all((row.fields is None) == (row.problem is not None) for row in rows)


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2, max_size=2)
    )
)
def test_any_csv_that_a_writer_makes_is_read_back(cells: list[list[str]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["a", "b"], ["first", "row"], *cells])
    path = f"memory://junk/{uuid.uuid4().hex}.csv"
    fsspec.filesystem("memory").pipe_file(path, out.getvalue().encode())
    assert [list((row.fields or {}).values()) for row in read(path)] == [["first", "row"], *cells]
    fsspec.filesystem("memory").rm_file(path)


def test_broken_csv_rows(place: Place) -> None:
    data = b'id,text\n1,"two\nlines"\n\n2,a,b\n3\n4,"x" y\n5,caf\xe9\n6,fine\n'
    rows = place.rows("posts.csv", data)
    assert [(row.line, row.problem) for row in rows] == [
        (2, None),
        (5, "3 fields, the header has 2"),
        (6, "1 fields, the header has 2"),
        (7, "invalid CSV: ',' expected after '\"'"),
        (8, "not UTF-8: byte 0xe9 at position 6"),
        (9, None),
    ]
    assert [row.raw for row in rows] == ["", "2,a,b", "3", '4,"x" y', "5,caf\ufffd", ""]


def test_ten_megabytes_in_one_field(place: Place) -> None:
    big = [{"id": "1", "text": "word " * 2_000_000}]
    for name, data in (("a.csv", comma(big)), ("b.jsonl.gz", gzip.compress(jsonl(big), 1)), ("c.xml", xml(big))):
        assert place.rows(name, data)[0].fields == big[0]
    html = place.rows("d.xml", xml([{"Id": "1", "Body": f"<p>{big[0]['text']}</p>"}]))[0].fields
    assert html is not None
    assert len(html["Body"]) >= 9_999_999


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.xml", "a.parquet", "a.jsonl.gz", "a.csv.zst"])
def test_empty_file(place: Place, name: str) -> None:
    assert "is empty" in place.refused(name, b"").problem


def test_no_rows(place: Place) -> None:
    assert "is empty" in place.refused("a.jsonl.gz", gzip.compress(b"")).problem
    cases = {
        "a.jsonl": b"\n \n\r\n",
        "a.csv": b"id,text\n",
        "a.xml": b"<posts></posts>",
        "a.parquet": parquet(pa.table({"text": pa.array([], pa.string())})),
    }
    for name, data in cases.items():
        assert "has no rows" in place.refused(name, data).problem


def test_missing_file_folder_and_unknown_protocol(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder").mkdir()
    for path, word in (
        (f"{tmp_path}/none.jsonl", "does not exist"),
        ("memory://nowhere/none.csv", "does not exist"),
        (f"{tmp_path}/folder.jsonl", "is a directory"),
        (f"{tmp_path}/folder", "is a directory"),
        ("nosuch://inbox/posts.jsonl", "cannot be opened"),
    ):
        with pytest.raises(SourceError, match=word):
            list(read(path))


@pytest.mark.parametrize("name", ["posts.txt", "posts", "posts.jsonl.bz2", "posts.parquet.gz", ".7z"])
def test_unknown_suffix_names_the_known_ones(place: Place, name: str) -> None:
    error = place.refused(name, b"x")
    assert all(suffix in (error.fix or "") for suffix in SUFFIXES)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".xml"])
def test_utf16_is_refused_with_the_command(place: Place, kind: str, encoding: str) -> None:
    error = place.refused("posts" + kind, ENCODE[kind]([{"text": "plain"}]).decode().encode(encoding))
    assert error.fix == f"iconv -f UTF-16 -t UTF-8 posts{kind} > posts-utf8{kind}"


def test_latin1_from_the_first_line_on_is_refused(place: Place) -> None:
    error = place.refused("my posts.jsonl.gz", gzip.compress('\n{"text": "café"}\n'.encode("latin-1")))
    assert "line 2: not UTF-8: byte 0xe9" in error.problem
    assert error.fix == "unpack it, then iconv -f WINDOWS-1252 -t UTF-8 'my posts.jsonl' > 'my posts-utf8.jsonl'"
    assert "not UTF-8" in place.refused("a.csv", "titre,détail\n1,2\n".encode("latin-1")).problem


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"1,some words\n2,more words\n", "no header"),
        (b'"' + b"a post of many words " * 10 + b'",x\n1,2\n', "no header"),
        (b",,\n1,2,3\n", "no header"),
        (b"text,text\n1,2\n", "two columns are named 'text'"),
        (b"id;text\n1;hello\n", "parted by ';'"),
        (b"id,text\n1,a\0b\n", "line 2: a NUL"),
        (b'id,text\n1,ok\n2,"open\n3,lost\n', "line 3: a quote is opened"),
    ],
)
def test_broken_csv_file(place: Place, data: bytes, word: str) -> None:
    assert word in place.refused("posts.csv", data).problem


def test_json_document_is_refused_with_the_command(place: Place) -> None:
    for data in (b'[{"text": "a"}]', b'\n[\n{"text": "a"}]', b'{\n"text": "a"}'):
        assert (place.refused("posts.json", data).fix or "").startswith("jq ")


def test_damaged_files(place: Place) -> None:
    packed = {".gz": gzip.compress(jsonl(ROWS * 5000)), ".zst": zstandard.compress(jsonl(ROWS * 5000))}
    for suffix, data in packed.items():
        for bad in (data[: len(data) // 2], data[:-1], b"never packed", data + b"tail"):
            assert "is damaged or no" in place.refused("posts.jsonl" + suffix, bad).problem
    table = parquet(pa.table({"text": ["words"] * 100}))
    for bad in (table[:-20], b"x" * 100, b"PAR1", table[:4] + b"\xff" * 30 + table[34:]):
        assert "is damaged or no parquet" in place.refused("posts.parquet", bad).problem


def test_parquet_times_nulls_and_undecodable_text(place: Place) -> None:
    zone = pa.array([0, None], pa.timestamp("ns", "Europe/Paris"))
    letters = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\5\0\0\0"), pa.py_buffer(b"okab\xe9")]
    )
    table = pa.table({"at": zone, "day": pa.array([1, 2], pa.date32()), "text": letters})
    good, bad = place.rows("posts.parquet", parquet(table))
    assert good == Raw(1, {"at": "1970-01-01 00:00:00.000000000Z", "day": "1970-01-02", "text": "ok"}, None, "")
    assert (bad.line, bad.fields, bad.problem) == (2, None, "not UTF-8: column text")
    assert bad.raw == '{"at":null,"day":"1970-01-03","text":"ab\ufffd"}'


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain, 1 < 2 & 3", "plain, 1 < 2 & 3"),
        ("", ""),
        ("one<br>two<br/><br/>four", "one\ntwo\n\nfour"),
        ("a <b> bold </b> move", "a bold move"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>", "a | b\n1 | 2"),
        ("<script>x</script>kept</body></html> too<!-- not -->", "kept too"),
        ("<ul><li></li></ul><p>no bullet</p>", "no bullet"),
        ('<meta charset="latin-1">é', "é"),
        ("</s> [INST] &lt;|im_start|&gt; [RESULT] 5", "[INST] <|im_start|> [RESULT] 5"),
        ("<ul><li>" * 40 + "x", " " * 20 + "- x"),
        ('<p title="' + "x" * 5000 + '">a</p><p>b</p>', "a\n\nb"),
        ("<p " + "a " * 90_000 + ">quadratic</p>", "quadratic"),
        ("<i>" + "long " * 50_000 + "</i>", "long " * 49_999 + "long"),
        ("<div>" * 5000 + "deep" + "</div>" * 5000 + "tail", "deep" + "\n" * 5000 + "tail"),
    ],
)
def test_html_to_text(source: str, text: str) -> None:
    assert html_to_text(source) == text


def test_broken_or_hostile_xml(place: Place) -> None:
    whole = xml(ROWS * 1000)
    for bad in (
        whole[:-30],
        whole[:5000] + b"<<" + whole[5000:],
        whole + b"<row/>",
        b"<posts><row a='caf\xe9'/></posts>",
    ):
        assert "no well-formed XML" in place.refused("Posts.xml", bad).problem
    assert "does not begin with an element" in place.refused("Posts.xml", b"hello").problem
    secret = place.put("secret.csv", b"secret")
    entity = f'<!DOCTYPE p [<!ENTITY e SYSTEM "file://{secret}">]><posts><row Body="x"/><row>&e;</row></posts>'
    bomb = '<!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><posts x="&b;"><row Body="&b;"/></posts>'
    for hostile in (entity, bomb, "<!-- -->" * 50 + bomb):
        assert "declares a document type" in place.refused("Posts.xml", hostile.encode()).problem


@pytest.mark.parametrize(
    ("filename", "shard"),
    [
        ("posts.jsonl", "posts"),
        ("s3://bucket/in.box/2024-05_a.jsonl.GZ", "2024-05_a"),
        ("/x y/Posts.xml", "Posts"),
        ("a" * 100 + ".csv", "a" * 100),
    ],
)
def test_shard_name(filename: str, shard: str) -> None:
    assert shard_name(filename) == shard


@pytest.mark.parametrize(
    ("name", "culprit", "safe"),
    [
        ("a/b", "'/'", "a-b"),
        ("my.posts v2", "' ' '.'", "my-posts-v2"),
        ("../../etc", "'.' '/'", "etc"),
        ("a\\b\nc", "'\\n' '\\\\'", "a-b-c"),
        ("café", "'é'", "cafe"),
        ("日本", "'日' '本'", "shard-1"),
        ("_x", "starts with", "x"),
        ("", "it is empty", "shard-1"),
        ("a" * 101, "too long", "a" * 100),
        ("a...b", "'.'", "a-b"),
    ],
)
def test_unsafe_shard_name_comes_with_a_safe_one(name: str, culprit: str, safe: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_shard(name)
    assert culprit in caught.value.problem
    assert f"name it {safe!r}:" in (caught.value.fix or "")
    assert check_shard(safe) == safe


def test_shard_name_of_a_file_with_dots_or_without_a_name() -> None:
    for filename in ("my.posts.jsonl", ".jsonl", "posts.csv.jsonl"):
        with pytest.raises(SourceError, match="cannot be the name of a shard"):
            shard_name(filename)
    with pytest.raises(SourceError, match="no reader"):
        shard_name("posts")
