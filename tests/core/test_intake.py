"""Files into the inbox: no post comes twice, and nothing is taken by halves."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import orjson
import polars as pl
import pytest

from pugc_core import storage
from pugc_core.errors import SourceError
from pugc_core.tables import intake
from pugc_core.tables.workspace import Workspace


class Inbox:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.workspace = Workspace(str(root / "data"))

    def file(self, name: str, posts: Iterable[int]) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": f"post {i}"} for i in posts]
        if name.endswith(".parquet"):
            pl.DataFrame(rows).write_parquet(path)
        else:
            data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    def take(self, *files: str, rows: int | None = None, replace: bool = False) -> list[str]:
        return list(intake.take(self.workspace, files, rows=rows, replace=replace))

    def refused(self, *files: str, rows: int | None = None) -> str:
        before = self.names()
        with pytest.raises(SourceError) as caught:
            self.take(*files, rows=rows)
        assert caught.value.fix
        assert self.names() == before
        return caught.value.problem

    def names(self) -> list[str]:
        return sorted(os.listdir(self.workspace.inbox)) if os.path.isdir(self.workspace.inbox) else []


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_a_file_is_copied_byte_for_byte(inbox: Inbox) -> None:
    path = inbox.file("a.jsonl.gz", range(9))
    assert inbox.take(path) == ["a"]
    assert (Path(inbox.workspace.inbox) / "a.jsonl.gz").read_bytes() == Path(path).read_bytes()
    assert inbox.take(path) == ["a"]  # the same again is no news
    assert inbox.names() == ["a.jsonl.gz"]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_whole_and_parts_never_stand_side_by_side(inbox: Inbox, suffix: str) -> None:
    path = inbox.file("posts" + suffix, range(9))
    kept = ".parquet" if suffix == ".parquet" else ".jsonl"
    parts = [f"posts-000{i}{kept}" for i in range(3)]
    inbox.take(path)
    assert "its posts are there already, as shard posts; they would come twice" in inbox.refused(path, rows=4)
    inbox.take(path, rows=4, replace=True)
    assert inbox.names() == parts
    assert "as shard posts-0000, posts-0001, posts-0002; they" in inbox.refused(path)
    inbox.take(path, replace=True)
    assert inbox.names() == ["posts" + suffix]


@pytest.mark.parametrize("rows", [None, 2])
def test_what_is_there_is_not_written_again(inbox: Inbox, rows: int | None) -> None:
    """Its time and inode tell others that it did not change."""
    file, other = inbox.file("a.jsonl", range(4)), inbox.file("b.jsonl", range(4, 8))
    inbox.take(file, rows=rows)
    before = storage.signatures(inbox.workspace.inbox)
    taken = inbox.take(file, other, rows=rows)
    assert set(before) < set(inbox.names())
    assert len(taken) == 2 * len(before)
    after = storage.signatures(inbox.workspace.inbox)
    assert {name: after[name] for name in before} == before


def test_a_file_that_grew_is_still_the_same_file(inbox: Inbox) -> None:
    inbox.take(inbox.file("posts.jsonl", range(8)), rows=4)
    (Path(inbox.workspace.inbox) / "posts-0000.jsonl").unlink()  # retired by hand
    longer = inbox.file("posts.jsonl", range(12))
    assert "as shard posts-0001" in inbox.refused(longer)
    inbox.take(longer, replace=True)
    assert inbox.names() == ["posts.jsonl"]


def test_a_name_alone_makes_no_part(inbox: Inbox) -> None:
    inbox.take(inbox.file("reviews-2024.jsonl", range(100, 109)), inbox.file("reviews-0001.jsonl", range(200, 209)))
    inbox.take(inbox.file("reviews.jsonl", range(9)))
    inbox.take(inbox.file("reviews.jsonl", range(9)), rows=9, replace=True)
    assert inbox.names() == ["reviews-0000.jsonl", "reviews-0001.jsonl", "reviews-2024.jsonl"]


def test_the_same_content_under_another_name(inbox: Inbox) -> None:
    a, b = inbox.file("a.jsonl", range(9)), inbox.file("b.jsonl", range(9))
    assert f"{b} has the same posts as {a}" in inbox.refused(a, b)
    inbox.take(a)
    assert "its posts are there already, as shard a; they would come twice" in inbox.refused(b)
    inbox.take(b, replace=True)
    assert inbox.names() == ["b.jsonl"]
    inbox.take(inbox.file("c.jsonl", range(20, 40)), rows=10)
    assert "as shard c-0000, c-0001; they" in inbox.refused(inbox.file("d.jsonl", range(20, 40)), rows=10)


def test_parts_that_repeat_themselves_are_one_file_s_own_affair(inbox: Inbox) -> None:
    assert len(inbox.take(inbox.file("a.jsonl", [1, 2, 1, 2]), rows=2)) == 2
    assert len(inbox.take(inbox.file("a.jsonl", [1, 2, 1, 2]), rows=2)) == 2


def test_parts_that_move_are_replaced(inbox: Inbox) -> None:
    inbox.take(inbox.file("a.jsonl", range(4)), rows=2)
    inbox.take(inbox.file("a.jsonl", [8, 9, *range(4)]), rows=2, replace=True)  # each but the first was another before
    assert inbox.names() == ["a-0000.jsonl", "a-0001.jsonl", "a-0002.jsonl"]


def test_a_posts_xml_is_named_after_its_site(inbox: Inbox) -> None:
    row = '<row Id="{}" PostTypeId="2" ParentId="1" Body="words"/>'
    for number, folder in enumerate(("coffee.stackexchange.com", "beer.stackexchange.com", "elsewhere")):
        path = inbox.root / folder / "Posts.xml"
        path.parent.mkdir()
        path.write_text(f"<posts>{row.format(number)}</posts>")
    files = [str(path) for path in sorted(inbox.root.glob("*/Posts.xml"))]
    assert inbox.take(*files) == ["beer-stackexchange-com", "coffee-stackexchange-com", "Posts"]


def test_a_file_without_a_post(inbox: Inbox) -> None:
    path = inbox.root / "Comments.xml"
    path.write_text('<comments><row Id="1" PostId="2" Text="Thanks!"/></comments>')
    assert "holds no posts: only comment" in inbox.refused(str(path))


def test_what_is_no_file(inbox: Inbox, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is a named pipe" in inbox.refused(str(tmp_path / "pipe.jsonl"))
    assert "is a directory" in inbox.refused(str(tmp_path))


def test_a_column_of_another_name_is_warned_of(
    inbox: Inbox, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("pugc"), "propagate", True)
    path = tmp_path / "a.jsonl"
    path.write_text('{"review": "x"}')
    inbox.take(str(path))
    assert "only review; say which in a recipe" in caplog.text


def test_the_file_is_not_held_in_memory(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> Callable[[], bytes]:
        raise AssertionError(f"the whole of {path} is read")

    monkeypatch.setattr("pugc_core.storage.read", refuse)
    monkeypatch.setattr("pugc_core.file_cache._load", lambda *_: {})
    assert inbox.take(inbox.file("a.jsonl", range(9))) == ["a"]
