"""Stage tables on disk: the footer says what a table is, the hash what is in it, and a file is whole or not there."""

from __future__ import annotations

import errno
import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pugc_core import storage
from pugc_core.errors import StorageError
from pugc_core.stages import STAGES
from pugc_core.stages.records import Counts
from pugc_core.tables.store import Footer, Loaded, Store, content_hash, file_hash, make_footer

FINGERPRINT = {"version": "1", "prompt": "abc", "model": "judge@1"}
INPUTS = {"ugc": "0123456789abcdef"}


def quality(*rows: tuple[str, int | None, str | None]) -> pl.DataFrame:
    """Rows of (ugc_id, score, drop_reason)."""
    return STAGES["quality"].table.frame(
        {"ugc_id": i, "score": score, "reasoning": f"über {i} 漢", "keep": reason is None, "drop_reason": reason}
        for i, score, reason in rows
    )


ROWS = quality(("p1", 5, None), ("p2", 2, "low_quality"), ("p3", None, "unparsable"), ("p4", 1, "low_quality"))


def footer_of(frame: pl.DataFrame, shard: str = "a", stage: str = "quality") -> Footer:
    return make_footer(frame, stage, shard, FINGERPRINT, INPUTS)


@pytest.fixture
def written(root: str) -> Store:
    store = Store(root)
    store.write("r", ROWS, footer_of(ROWS))
    return store


# --- round trip


def test_rows_and_footer_come_back_as_they_were(written: Store) -> None:
    footer = written.footer("r", "quality", "a")
    assert footer == footer_of(ROWS)
    assert footer is not None
    assert footer.counts == Counts(4, 1, {"low_quality": 2, "unparsable": 1})
    assert (footer.stage, footer.shard, footer.fingerprint, footer.inputs) == ("quality", "a", FINGERPRINT, INPUTS)
    back = written.read("r", "quality", "a")
    assert back.equals(ROWS)
    assert back.schema == ROWS.schema
    assert content_hash(back) == footer.content
    loaded = Loaded(written, "r", "quality", "a")
    assert loaded.footer == footer
    assert loaded.frame().equals(ROWS)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stages_table_comes_back_empty_too(tmp_path: Path, stage: str) -> None:
    store, frame = Store(str(tmp_path)), STAGES[stage].table.frame([])
    store.write("r", frame, footer_of(frame, stage=stage))
    assert store.read("r", stage, "a").schema == frame.schema
    footer = store.footer("r", stage, "a")
    assert footer is not None
    assert footer.counts == Counts(0, 0, {})


def test_nested_columns_come_back(tmp_path: Path) -> None:
    votes = [{"draw": 0, "score": 5, "feedback": "good"}, {"draw": 1, "score": None, "feedback": ""}]
    row = {"response_id": "r", "instruction_id": "i", "n_valid": 1, "reward": 1 / 3, "spread": 0.0}
    rows = [
        {**row, "votes": votes, "keep": True, "drop_reason": None},
        {**row, "votes": [], "reward": None, "keep": False, "drop_reason": "too_few_votes"},
    ]
    frame, store = STAGES["rewards"].table.frame(rows), Store(str(tmp_path))
    store.write("r", frame, footer_of(frame, stage="rewards"))
    assert store.read("r", "rewards", "a").equals(frame)


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    """No clock, no place and no order of keys enters a file."""
    paths = []
    for name, turned in (("one", False), ("two", True)):
        store = Store(str(tmp_path / name))
        fingerprint = dict(reversed(FINGERPRINT.items())) if turned else FINGERPRINT
        frame = pl.concat([ROWS[:2], ROWS[2:]], rechunk=False) if turned else ROWS
        store.write("r", frame, make_footer(frame, "quality", "a", fingerprint, INPUTS))
        paths.append(Path(store.path("r", "quality", "a")))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_shards_are_the_tables_there_are(written: Store) -> None:
    written.write("r", ROWS, footer_of(ROWS, "b-2_x"))
    written.write("other", ROWS, footer_of(ROWS, "c"))
    assert written.shards("r", "quality") == ["a", "b-2_x"]
    assert written.shards("r", "rewards") == []
    assert written.shards("nobody", "quality") == []


def test_a_table_written_again_replaces_the_old_one(written: Store) -> None:
    new = ROWS.head(1)
    written.write("r", new, footer_of(new))
    assert written.read("r", "quality", "a").equals(new)
    footer = written.footer("r", "quality", "a")
    assert footer is not None
    assert footer.rows_in == 1


# --- content hash, made from


def test_the_content_hash_is_of_the_rows_not_of_their_layout(tmp_path: Path) -> None:
    whole = content_hash(ROWS)
    assert content_hash(pl.concat([ROWS[:1], ROWS[1:3], ROWS[3:]], rechunk=False)) == whole
    assert content_hash(ROWS.filter(pl.lit(True)).clone()) == whole
    for compression, group in (("zstd", 1), ("snappy", 2), ("none", 100)):
        buffer = io.BytesIO()
        pq.write_table(ROWS.to_arrow(), buffer, compression=compression, row_group_size=group)
        buffer.seek(0)
        assert content_hash(pl.read_parquet(buffer)) == whole


def test_every_difference_in_the_rows_is_in_the_hash() -> None:
    kept, dropped = ("p1", 5, None), ("p2", 2, "low_quality")
    variants = [
        quality(kept, dropped),
        quality(dropped, kept),
        quality(kept),
        quality(),
        quality(kept, dropped, dropped),
        quality(kept, ("p2", 3, "low_quality")),
        quality(kept, ("p2", None, "low_quality")),
        quality(kept, ("p2", 2, "unparsable")),
        quality(kept, ("p3", 2, "low_quality")),
        quality(kept, dropped).rename({"score": "grade"}),
        quality(kept, dropped).with_columns(reasoning=pl.lit("")),
        quality(kept, dropped).with_columns(reasoning=pl.lit(None, pl.String)),
        quality(kept, dropped).with_columns(reasoning=pl.lit("null")),
    ]
    assert len({content_hash(frame) for frame in variants}) == len(variants)


_cells = st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), st.none() | st.integers(-128, 127))


@settings(max_examples=60, deadline=None)
@given(a=st.lists(_cells, min_size=1, max_size=4), b=st.lists(_cells, min_size=1, max_size=4), cut=st.integers(0, 4))
def test_hashes_are_equal_exactly_when_rows_are(
    a: list[tuple[str, int | None]], b: list[tuple[str, int | None]], cut: int
) -> None:
    schema = {"text": pl.String(), "score": pl.Int8()}
    one, two = pl.DataFrame(a, schema=schema, orient="row"), pl.DataFrame(b, schema=schema, orient="row")
    assert (content_hash(one) == content_hash(two)) == (a == b)
    assert content_hash(pl.concat([one[:cut], one[cut:]], rechunk=False)) == content_hash(one)


def test_made_from_tells_any_change_of_what_shaped_a_table() -> None:
    footer = footer_of(ROWS)
    assert footer.made_from(FINGERPRINT, INPUTS)
    assert footer.made_from(dict(reversed(FINGERPRINT.items())), dict(INPUTS))
    assert not footer.made_from({**FINGERPRINT, "prompt": "abd"}, INPUTS)
    assert not footer.made_from({**FINGERPRINT, "new": "knob"}, INPUTS)
    assert not footer.made_from({k: v for k, v in FINGERPRINT.items() if k != "model"}, INPUTS)
    assert not footer.made_from(FINGERPRINT, {"ugc": "other"})
    assert not footer.made_from(FINGERPRINT, {**INPUTS, "more": "x"})
    assert not footer.made_from(FINGERPRINT, {})


def test_file_hash_is_of_the_bytes(root: str) -> None:
    big = bytes(range(256)) * 9000  # more than one block
    storage.write(storage.join(root, "x"), big)
    storage.write(storage.join(root, "y"), big)
    storage.write(storage.join(root, "z"), big[:-1] + b"!")
    x, y, z = (file_hash(storage.join(root, name)) for name in "xyz")
    assert x == y != z
    with pytest.raises(FileNotFoundError):
        file_hash(storage.join(root, "none"))


# --- missing and damaged


def test_a_missing_table_names_the_command_that_makes_it(root: str) -> None:
    store = Store(root)
    assert store.footer("small", "rewards", "shard-7") is None
    loaded = Loaded(store, "small", "rewards", "shard-7")
    for ask in (lambda: store.read("small", "rewards", "shard-7"), loaded.frame, lambda: loaded.footer):
        with pytest.raises(StorageError) as caught:
            ask()
        assert caught.value.fix == "pugc run --recipe small --shard shard-7 --to rewards"
        assert "no table rewards for shard shard-7 of recipe small" in caught.value.problem
        assert store.path("small", "rewards", "shard-7") in caught.value.problem


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut in half"),
        pytest.param(lambda data: data[:-1], id="last byte gone"),
        pytest.param(lambda data: b"something else", id="other content"),
        pytest.param(lambda data: data[:-300] + bytes(292) + data[-8:], id="zeros in the footer"),
    ],
)
def test_a_damaged_file_is_told_by_name_with_what_to_do(written: Store, change: Callable[[bytes], bytes]) -> None:
    path = written.path("r", "quality", "a")
    storage.write(path, change(storage.read(path)))
    for ask in (written.footer, written.read):
        with pytest.raises(StorageError) as caught:
            ask("r", "quality", "a")
        assert path in caught.value.problem
        assert "delete the file" in str(caught.value.fix)


def test_no_flipped_bit_gives_other_rows_or_a_bare_error(tmp_path: Path) -> None:
    """Wherever a byte is changed: the right rows, or a StorageError; the footer likewise, or None for nothing."""
    store = Store(str(tmp_path))
    store.write("r", ROWS, footer_of(ROWS))
    path = Path(store.path("r", "quality", "a"))
    whole, dice, told = path.read_bytes(), random.Random(3), 0
    for _ in range(300):
        broken = bytearray(whole)
        broken[dice.randrange(len(broken))] ^= dice.randrange(1, 256)
        path.write_bytes(bytes(broken))
        try:
            rows = store.read("r", "quality", "a")
        except StorageError:
            told += 1
        else:
            assert rows.equals(ROWS)
        try:
            store.footer("r", "quality", "a")
        except StorageError:
            told += 1
    assert told > 40


def test_a_parquet_file_without_a_footer_of_ours_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = Path(store.path("r", "quality", "a"))
    path.parent.mkdir(parents=True)
    ROWS.write_parquet(path)
    with pytest.raises(StorageError, match="no PUGC footer"):
        store.footer("r", "quality", "a")


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1, 2]",
        "no json",
        json.dumps({"stage": "quality", "from": "the future"}),
    ],
)
def test_a_footer_of_another_version_counts_as_unreadable(tmp_path: Path, text: str) -> None:
    store = Store(str(tmp_path))
    path = Path(store.path("r", "quality", "a"))
    path.parent.mkdir(parents=True)
    pq.write_table(ROWS.to_arrow().replace_schema_metadata({b"pugc": text}), path)
    with pytest.raises(StorageError, match="not readable"):
        store.footer("r", "quality", "a")


def test_rows_of_another_version_count_as_unreadable(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path = Path(store.path("r", "quality", "a"))
    path.parent.mkdir(parents=True)
    ROWS.drop("score").write_parquet(path)
    with pytest.raises(StorageError, match="not readable"):
        store.read("r", "quality", "a")


# --- schema


def row(**changes: Any) -> dict[str, Any]:
    base = {"ugc_id": "p", "score": 5, "reasoning": "r", "keep": True, "drop_reason": None}
    return {**base, **changes}


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (ROWS.drop("score"), "schema"),
        (ROWS.with_columns(extra=pl.lit(1)), "schema"),
        (ROWS.with_columns(pl.col("score").cast(pl.Int64)), "schema"),
        (STAGES["quality"].table.frame([row(keep=False)]), "without a reason"),
        (STAGES["quality"].table.frame([row(drop_reason="low_quality")]), "keeps rows that have a drop reason"),
        (STAGES["quality"].table.frame([row(), row(), row(ugc_id="q")]), "ugc_id twice: p$"),
    ],
)
def test_a_frame_that_breaks_the_schema_gets_no_footer(frame: pl.DataFrame, words: str) -> None:
    with pytest.raises(StorageError, match=words):
        footer_of(frame)


def test_dropped_rows_may_share_a_key() -> None:
    twice = STAGES["quality"].table.frame([row(), row(keep=False, drop_reason="x"), row(keep=False, drop_reason="x")])
    assert footer_of(twice).counts == Counts(3, 1, {"x": 2})


def test_a_table_from_before_a_column_came_is_read_without_it(tmp_path: Path) -> None:
    store, whole = Store(str(tmp_path)), quality(("a", 4, None))
    older = whole.drop("reasoning")
    store.write("r", older, replace(footer_of(whole, "s"), content=content_hash(older)))
    assert store.read("r", "quality", "s").rows() == [("a", 4, None, True, None)]
    assert store.read("r", "quality", "s", ["reasoning", "ugc_id"]).rows() == [(None, "a")]


def test_rows_with_missing_or_extra_columns_are_refused() -> None:
    with pytest.raises(StorageError, match="missing or extra columns: score"):
        STAGES["quality"].table.frame([{k: v for k, v in row().items() if k != "score"}])
    with pytest.raises(StorageError, match="missing or extra columns: mood"):
        STAGES["quality"].table.frame([row(mood="good")])


def test_rows_of_the_wrong_type_are_refused() -> None:
    for wrong in (row(score="five"), row(score=1000), row(keep="yes")):
        with pytest.raises((StorageError, TypeError, OverflowError, pl.exceptions.PolarsError)):
            STAGES["quality"].table.frame([wrong])


def test_a_footer_of_another_stage_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="table responses has schema"):
        make_footer(ROWS, STAGES["responses"].table.name, "a", FINGERPRINT, INPUTS)


# --- whole or not at all


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
@pytest.mark.parametrize("old", [True, False], ids=["over an old table", "a new table"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, old: bool
) -> None:
    store = Store(str(tmp_path))
    if old:
        store.write("r", ROWS, footer_of(ROWS))
    path = Path(store.path("r", "quality", "a"))
    before = path.read_bytes() if old else None

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "write":
        # As the kernel does it: a part of the bytes, then the error.
        class Half(io.FileIO):
            def write(self, data: Any) -> int:
                super().write(bytes(data)[:10])
                fails()
                return 0

        monkeypatch.setattr(storage.Path, "open", lambda self, mode: Half(self, mode))
    elif where == "fsync":
        monkeypatch.setattr(storage.os, "fsync", fails)
    else:
        monkeypatch.setattr(storage.Path, "replace", fails)
    new = ROWS.head(1)
    with pytest.raises(StorageError, match="No space left") as caught:
        store.write("r", new, footer_of(new))
    assert "free disk space" in str(caught.value.fix)
    monkeypatch.undo()
    assert (path.read_bytes() if path.exists() else None) == before
    assert [p.name for p in path.parent.iterdir()] == (["a.parquet"] if old else [])  # nothing half left lying
    store.write("r", new, footer_of(new))
    assert store.read("r", "quality", "a").equals(new)


def test_a_reader_never_sees_half_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the rename, the old table is read and the new one is not listed."""
    store = Store(str(tmp_path))
    store.write("r", ROWS, footer_of(ROWS))
    seen = []
    fsync = storage.os.fsync

    def looked(fd: int) -> None:
        seen.append((store.read("r", "quality", "a").height, store.shards("r", "quality")))
        fsync(fd)

    monkeypatch.setattr(storage.os, "fsync", looked)
    store.write("r", ROWS.head(1), footer_of(ROWS.head(1)))
    store.write("r", ROWS, footer_of(ROWS, "b"))
    assert seen == [(4, ["a"]), (1, ["a"])]


def test_a_killed_writers_leftover_is_not_a_table(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("r", ROWS, footer_of(ROWS))
    path = Path(store.path("r", "quality", "a"))
    (path.parent / ".b.parquet.0123abcd.tmp").write_bytes(b"half")
    (path.parent / "notes.txt").write_text("not a table")
    (path.parent / "folder.parquet").mkdir()
    assert store.shards("r", "quality") == ["a"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EDQUOT, "free disk space"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "make the folder writable"),
        (errno.EIO, "check the path"),
    ],
)
def test_what_the_system_says_becomes_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, "the system's word")

    monkeypatch.setattr(storage.os, "fsync", fails)
    with pytest.raises(StorageError, match="the system's word") as caught:
        storage.write(str(tmp_path / "x"), b"")
    assert advice in str(caught.value.fix)


def test_an_object_store_that_cannot_be_reached_is_a_storage_error(
    memory_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver's errors need not be OSErrors: botocore's are not."""

    class EndpointConnectionError(Exception):
        pass

    def away(*_: object, **__: object) -> None:
        raise EndpointConnectionError("Could not connect to the endpoint")

    kind = fsspec.get_filesystem_class("memory")
    monkeypatch.setattr(kind, "pipe_file", away)
    monkeypatch.setattr(kind, "cat_file", away)
    store = Store(memory_root)
    for act in (lambda: store.write("r", ROWS, footer_of(ROWS)), lambda: store.read("r", "quality", "a")):
        with pytest.raises(StorageError, match="Could not connect") as caught:
            act()
        assert caught.value.fix


def test_a_footer_is_frozen() -> None:
    footer = footer_of(ROWS)
    assert replace(footer, shard="b") != footer
    with pytest.raises(AttributeError):
        footer.shard = "b"  # type: ignore[misc]
