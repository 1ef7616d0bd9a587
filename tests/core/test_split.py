"""Large files as several shards."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from pugc_core.errors import SourceError
from pugc_core.stages import sources
from pugc_core.stages.split import split


def written(folder: Path, path: Path, rows: int) -> list[Path]:
    folder.mkdir()
    for part in split(str(path), rows):
        (folder / part.name).write_bytes(part.data)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("packed", [False, True])
def test_lines_stay_what_they_are(tmp_path: Path, packed: bool) -> None:
    lines = b'{"text": "1"}\n\n{"text": 2\n{"text": "3"}\n\xff\n{"text": "5"}'
    path = tmp_path / ("posts.jsonl.gz" if packed else "posts.jsonl")
    path.write_bytes(gzip.compress(lines) if packed else lines)
    parts = written(tmp_path / "parts", path, 2)
    assert [p.name for p in parts] == ["posts-0000.jsonl", "posts-0001.jsonl", "posts-0002.jsonl"]
    whole = [(raw.fields, raw.problem) for raw in sources.read(str(path))]
    assert [(raw.fields, raw.problem) for part in parts for raw in sources.read(str(part))] == whole


@pytest.mark.parametrize("group", [3, 7, 100])
def test_parquet_rows_over_row_groups(tmp_path: Path, group: int) -> None:
    frame = pl.DataFrame({"text": [str(i) for i in range(20)], "n": range(20)})
    path = tmp_path / "posts.parquet"
    frame.write_parquet(path, row_group_size=group)
    parts = written(tmp_path / "parts", path, 6)
    frames = [pl.read_parquet(part) for part in parts]
    assert [f.height for f in frames] == [6, 6, 6, 2]
    assert pl.concat(frames).equals(frame)


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", b"text\nx\n"), ("a.parquet", b"PAR1junk"), ("a.jsonl.gz", b"x")]
)
def test_what_cannot_be_split_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError):
        list(split(str(tmp_path / name), 5))
    with pytest.raises(SourceError, match="does not exist"):
        list(split(str(tmp_path / "none.jsonl"), 5))
