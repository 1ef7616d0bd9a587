"""What is remembered of files: never of a file that changed, and never from a damaged cache."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from pugc_core import file_cache, storage
from pugc_core.errors import StorageError
from pugc_core.file_cache import cached
from pugc_core.ledger.dispatch import Calls
from pugc_core.results.call_log import earlier, last, record
from pugc_core.stages.quality import Quality
from pugc_core.tables.store import Footer, Store, failed_footer, make_footer


def damages(whole: bytes, count: int, seed: int = 5) -> list[bytes]:
    """Bytes as a bad disk, a killed writer or a careless editor leaves them; all differ from `whole`."""
    dice, found = random.Random(seed), list[bytes]()
    while len(found) < count:
        data, kind, at = bytearray(whole), len(found) % 6, dice.randrange(len(whole))
        if kind in (0, 1):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        elif kind == 4:
            data[at:at] = dice.randbytes(8)
        else:
            data[at] = ord(dice.choice('0123456789abcdef",:{}'))
        if bytes(data) != whole:
            found.append(bytes(data))
    return found


def rows(n: int) -> pl.DataFrame:
    row = {"score": 5, "reasoning": "fine", "keep": True, "drop_reason": None}
    return Quality.table.frame({"ugc_id": f"p{i}", **row} for i in range(n))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three tables that are old enough to be remembered."""
    store = Store(str(tmp_path))
    for n, shard in enumerate("abc", 1):
        store.write("r", rows(n), make_footer(rows(n), "quality", shard, {"version": "1"}, {"ugc": str(n)}))
        os.utime(store.path("r", "quality", shard), (1e9, 1e9))
    return store


def cache(store: Store) -> Path:
    return Path(storage.join(store.root, "r", "quality", ".footers"))


def test_a_damaged_cache_is_never_believed_and_is_written_anew(store: Store) -> None:
    truth = store.footers("r", "quality")
    whole = cache(store).read_bytes()
    for n, data in enumerate(damages(whole, 300)):
        cache(store).write_bytes(data)
        assert store.footers("r", "quality") == truth, n
        assert cache(store).read_bytes() == whole, n
    cache(store).unlink()
    cache(store).mkdir()  # nor does anything else in its place do harm
    assert store.footers("r", "quality") == truth


def test_a_cache_of_another_version_is_not_used(store: Store) -> None:
    truth = store.footers("r", "quality")
    folder = cache(store).parent
    for kind in ("", "stage shard of another version"):
        read: Callable[[str], str] = lambda name: json.dumps({"name": name})  # noqa: E731
        cache(store).unlink()
        cached(str(folder), str(cache(store)), read, suffix=".parquet", kind=kind)
        assert store.footers("r", "quality") == truth
    # As versions before this one wrote it: no checksum.
    pl.DataFrame([("a.parquet", "1 2 3", "{}")], schema=file_cache._SCHEMA, orient="row").write_parquet(cache(store))
    assert store.footers("r", "quality") == truth


def test_a_damaged_footer_is_never_believed(store: Store) -> None:
    """Anywhere in the file, and where the footer stands, which it does twice: as it is and within Arrow's schema."""
    truth, path = store.footer("r", "quality", "b"), Path(store.path("r", "quality", "b"))
    whole = path.read_bytes()
    place = whole.index(b'"checksum"')
    in_place = [whole[:place] + data for data in damages(whole[place:], 600)]
    told = 0
    for data in [*in_place, *damages(whole, 300)]:
        path.write_bytes(data)
        try:
            assert store.footer("r", "quality", "b") == truth
        except StorageError:
            told += 1
            assert "b" not in store.footers("r", "quality")
        else:
            assert store.footers("r", "quality")["b"] == truth
    assert told > 300


def test_footers_of_before_have_no_checksum_and_stay_current(store: Store) -> None:
    footer, path = store.footer("r", "quality", "a"), store.path("r", "quality", "a")
    assert footer is not None
    old = {name: value for name, value in asdict(footer).items() if name != "failed"}
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"pugc": json.dumps(old)}), path)
    assert store.footer("r", "quality", "a") == footer
    assert store.footers("r", "quality")["a"].made_from({"version": "1"}, {"ugc": "1"})


def test_a_sound_cache_is_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = store.footers("r", "quality")

    def opened(*_: object) -> Footer:
        raise AssertionError("a table was opened")

    monkeypatch.setattr(Store, "footer", opened)
    assert store.footers("r", "quality") == truth


def test_a_damaged_page_of_calls_is_no_page(tmp_path: Path) -> None:
    path = str(tmp_path / "runs" / "r.json")
    record(path, "1", "quality", "judge", Calls(made=3), shards=["a"], reused=0, seconds=1.0)
    record(path, "1", "quality", "judge", Calls(made=2), shards=["b"], reused=0, seconds=1.0)
    assert last(path)["stages"]["quality"]["made"] == 5
    assert (earlier(path, "1", "quality").shards, earlier(path, "1", "quality").calls.made) == (["a", "b"], 5)
    assert earlier(path, "2", "quality").shards == earlier(path, "1", "rewards").shards == ()
    whole = Path(path).read_bytes()
    sound = last(path)
    for data in [*damages(whole, 300), b"[]", b"\xff", b'{"stages": 1}']:
        Path(path).write_bytes(data)
        page = last(path)
        assert page in ({}, sound)
        earlier(path, page.get("run", "1"), "quality")
        record(path, page.get("run", "1"), "quality", "judge", Calls(made=1), shards=["c"], reused=0, seconds=1.0)
        assert last(path)["stages"]["quality"]["made"] >= 1
    Path(path).write_text('{"run": "1", "stages": {"quality": {"role": "judge", "made": 4}}}')  # as it was before
    assert last(path)["stages"]["quality"]["made"] == 4


def test_failed_shards_are_remembered_with_their_reason(store: Store) -> None:
    why = "bad.jsonl is empty; fix: put something in"
    footer = failed_footer("quality", "d", {"version": "1"}, {"ugc": "0"}, why)
    store.write("r", Quality.table.frame([]), footer)
    assert store.footer("r", "quality", "d") == store.footers("r", "quality")["d"] == footer
    assert footer.failed == why
    assert not footer.made_from({"version": "1"}, {"ugc": "0"})  # it is tried again


def test_temporary_files_of_killed_writers_are_swept(tmp_path: Path) -> None:
    names = {
        ".a.parquet.0123abcd.tmp": 2 * 3600.0,  # left by a killed run
        ".b.parquet.0123abcd.tmp": 60.0,  # somebody may be writing it now
        "mine.tmp": 9e5,
        ".hidden": 9e5,
        ".notes.tmp": 9e5,
        "a.parquet.0123abcd.tmp": 9e5,
    }
    for name, age in names.items():
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    storage._swept.discard(tmp_path)
    storage.write(str(tmp_path / "new"), b"")
    assert {p.name for p in tmp_path.iterdir()} == {*names, "new"} - {".a.parquet.0123abcd.tmp"}
