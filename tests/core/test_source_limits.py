"""No file of posts takes more memory or time than its size allows, and only files are opened."""

from __future__ import annotations

import gzip
import io
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pugc_core.errors import SourceError
from pugc_core.stages.sources import Raw, limits, read
from pugc_core.stages.split import split
from pugc_core.tables.workspace import Workspace

LONG = 1100


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits a sixty-four thousandth as high."""
    monkeypatch.setattr(limits, "LONGEST_ROW", 1000)
    monkeypatch.setattr(limits, "ALWAYS_UNPACKED", 20_000)


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **options)
    return out.getvalue()


def repeated(text: str, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text]))


@pytest.mark.usefixtures("small")
def test_what_unpacks_to_too_much(tmp_path: Path) -> None:
    value = repeated("x" * 10_000_000, 100)
    bombs = {
        "a.jsonl.gz": gzip.compress(b'{"text": "x"}' + b" " * 1_000_000),
        "a.csv.zst": zstandard.compress(b"text\n" + b"x,\n" * 1_000_000),
        "a.xml.zst": zstandard.compress(b"<posts>" + b'<row a="1"/>' * 1_000_000),
        "values.parquet": parquet({"text": value}),
        "nested.parquet": parquet({"text": ["x"] * 100, "c": pa.ListArray.from_arrays(list(range(101)), value)}),
        "plain.parquet": parquet({"text": ["x" * 100_000] * 80}, use_dictionary=False, compression="zstd"),
        "nothing.parquet": parquet({"text": pa.nulls(10_000_000, pa.string())}),
    }
    for name, data in bombs.items():
        path = written(tmp_path / name, data)
        with pytest.raises(SourceError, match=f"{name} unpacks to more than [0-9,]+ bytes, over 100 times") as caught:
            for _ in read(path):
                pass
        assert "unpack it yourself" in (caught.value.fix or "")


@pytest.mark.usefixtures("small")
def test_a_file_that_packs_as_posts_do_is_read(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%s"}\n' % os.urandom(40).hex().encode() for _ in range(500))
    assert len(lines) > limits.ALWAYS_UNPACKED
    assert len(list(read(written(tmp_path / "a.jsonl.gz", gzip.compress(lines))))) == 500
    whole = parquet({"text": [os.urandom(40).hex() for _ in range(500)]}, compression="zstd")
    assert len(list(read(written(tmp_path / "a.parquet", whole)))) == 500


@pytest.mark.usefixtures("small")
def test_a_row_that_is_too_long(tmp_path: Path) -> None:
    line = b'{"text": "' + b"x" * LONG + b'"}'
    rows = list(read(written(tmp_path / "a.jsonl", b'{"text": 1}\n' + line + b'\n{"text": 2}\n' + line)))
    assert [(row.line, row.problem) for row in rows] == [
        (1, None),
        (2, "longer than 1,000 bytes"),
        (3, None),
        (4, "longer than 1,000 bytes"),
    ]
    for text in (b"x" * LONG, b'"' + b"x\n" * (LONG // 2)):  # in one line, or in many after a quote never closed
        with pytest.raises(SourceError, match="line 2: a row longer than 1,000 characters"):
            list(read(written(tmp_path / "a.csv", b"text\n" + text)))
    table = parquet({"text": ["x", "y" * LONG, "z"], "n": [1, 2, 3]})
    assert [(row.fields, row.problem) for row in read(written(tmp_path / "a.parquet", table))] == [
        ({"text": "x", "n": 1}, None),
        (None, "longer than 1,000 bytes"),
        ({"text": "z", "n": 3}, None),
    ]
    whole = written(tmp_path / "b.jsonl", b"\n".join([line, b'{"text": 1}', line]))
    parts = [written(tmp_path / part.name, part.data) for part in split(whole, 2)]
    problems = [[row.problem for row in read(path)] for path in (whole, *parts)]
    assert problems[0] == problems[1] + problems[2] == ["longer than 1,000 bytes", None, "longer than 1,000 bytes"]


def test_a_value_that_stands_for_many_rows_is_made_row_by_row(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", parquet({"text": repeated("x" * 10_000_000, 6), "n": list(range(6))}))
    sizes = [row.fields and (len(row.fields["text"]), row.fields["n"]) for row in read(path)]
    assert sizes == [(10_000_000, n) for n in range(6)]


def test_too_many_columns(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(2001)]
    wide = {
        "a.csv": (",".join(names) + "\n" + "," * 2000 + "\n").encode(),
        "a.parquet": parquet({name: [1] for name in names}),
    }
    for name, data in wide.items():
        with pytest.raises(SourceError, match="2,001 columns, more than 2,000"):
            list(read(written(tmp_path / name, data)))
    line = ("{" + ",".join(f'"{name}":1' for name in names) + '}\n{"text": 1}').encode()
    first, second = read(written(tmp_path / "a.jsonl", line))
    assert (first.problem, second.fields) == ("2,001 columns, more than 2,000", {"text": 1})


def test_deep_rows_are_broken_rows(tmp_path: Path) -> None:
    deep = [b"[" * n + b"]" * n for n in (99, 100, 300, 100_000)] + [b'{"a":' * 100 + b"1" + b"}" * 100]
    lines = [b'{"text": "x", "title": ' + value + b"}" for value in deep]
    flat = b'{"text": ' + b"[1,{}],".join([b""] * 300) + b'"x"}'
    rows = list(
        read(written(tmp_path / "a.jsonl", b"\n".join([*lines, b'{"many": [' + b"[]," * 5000 + b"[]]}", flat])))
    )
    nested = "nested deeper than 100 levels"
    assert [row.problem for row in rows[:3]] == [None, nested, nested]
    assert (rows[3].problem or "").startswith("invalid JSON")
    assert rows[4].problem == nested
    assert rows[5].problem is None


def test_cells_of_parquet_that_python_cannot_hold(tmp_path: Path) -> None:
    far = pa.array([2**62, 1], pa.int64()).view(pa.timestamp("us"))
    times = pa.ListArray.from_arrays([0, 1, 2], far)
    bad, good = read(written(tmp_path / "a.parquet", parquet({"text": ["x", "y"], "at": times})))
    assert (bad.fields, bad.raw) == (None, '{"text":"x","at":null}')
    assert (bad.problem or "").startswith("column at: ")
    assert good.fields
    assert good.fields["text"] == "y"


def test_only_files_are_opened(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    os.mkfifo(inbox / "pipe.jsonl")  # opening it would wait for ever
    (inbox / "zero.jsonl").symlink_to("/dev/zero")
    (inbox / "folder.jsonl").mkdir()
    (inbox / "folder").mkdir()
    (inbox / "gone.jsonl").symlink_to(inbox / "nowhere")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(inbox / "s.jsonl"))
    (inbox / "posts.jsonl").write_text('{"text": "x"}')
    what = {
        "folder": "a directory",
        "folder.jsonl": "a directory",
        "gone.jsonl": "a link to nothing",
        "pipe.jsonl": "a named pipe",
        "s.jsonl": "a socket",
        "zero.jsonl": "a device",
    }
    for name, words in what.items():
        with pytest.raises(SourceError, match=f"{name} is {words}, not a file of posts"):
            list(read(str(inbox / name)))
    shards, refused = Workspace(str(tmp_path)).scan()
    assert list(shards) == ["posts"]
    assert [(words.split()[0], words.split("it is ")[1].split(";")[0]) for words in refused] == list(what.items())
    bound.close()


def test_rows_are_told_apart_from_posts_by_default() -> None:
    assert Raw(1, {}, None, "").other is None
