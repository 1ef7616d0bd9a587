"""The ledger keeps every generation: across ends of the process, writers beside each other, merges and full disks."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pugc_core import storage
from pugc_core.engines.base import Generation
from pugc_core.errors import StorageError
from pugc_core.ledger import store as module
from pugc_core.ledger.rows import SCHEMA
from pugc_core.ledger.store import ROW_GROUP, Ledger, folder_of

MODEL = "judge@1"
NEVER = 3600.0
"""As `flush_seconds`: only `flush` and `close` write."""


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def answer(name: object, text: str | None = None) -> Generation:
    return Generation(key(name), f"text of {name}" if text is None else text, "stop", 7, 3, 11, "scripted 1")


def answers(*names: object) -> list[Generation]:
    return [answer(name) for name in names]


def parts(root: str, model: str = MODEL) -> list[str]:
    folder = storage.join(root, folder_of(model))
    return [storage.join(folder, name) for name in storage.names(folder)]


def store(root: str, *names: object, model: str = MODEL) -> None:
    """One part with these answers, written by a ledger of its own."""
    with Ledger(root, flush_seconds=NEVER) as ledger:
        ledger.add(model, answers(*names))


def find(root: str, names: Sequence[object], model: str = MODEL) -> dict[bytes, Generation]:
    """What a ledger opened now finds."""
    with Ledger(root, flush_seconds=NEVER) as ledger:
        return ledger.find(model, [key(name) for name in names])


def expected(names: Sequence[object]) -> dict[bytes, Generation]:
    return {key(name): answer(name) for name in names}


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# --- add, find, flush, close


def test_finds_what_was_added_and_nothing_else(root: str) -> None:
    odd = Generation(key("odd"), 'line\nbreak "ü" 漢字 🙂 \x00', "length", 0, 2**31 - 1, 2**62, "vllm 0.32.0")
    with Ledger(root) as ledger:
        ledger.add(MODEL, [*answers(1, 2), odd])
        assert ledger.find(MODEL, [key(1), key(3)]) == expected([1])
        ledger.flush()
        assert ledger.find(MODEL, [key(1), key("odd"), key(3)]) == {**expected([1]), odd.key: odd}
        ledger.add(MODEL, answers(3))
        assert ledger.find(MODEL, [key(2), key(3), key(2)]) == expected([2, 3])
    with Ledger(root) as ledger:
        assert ledger.find(MODEL, [key(2), key("odd"), key(4)]) == {**expected([2]), odd.key: odd}
        assert ledger.find(MODEL, []) == {}


def test_an_empty_ledger_answers_nothing_and_writes_nothing(root: str) -> None:
    assert find(root, [1, 2]) == {}
    assert parts(root) == []
    with Ledger(root) as ledger:
        ledger.add(MODEL, [])
    assert parts(root) == []


def test_what_is_written_is_not_written_again(root: str) -> None:
    with Ledger(root, flush_seconds=NEVER) as ledger:
        for name in (1, 2):
            ledger.add(MODEL, answers(name))
            for _ in range(3):
                ledger.flush()
    assert [pq.read_table(io.BytesIO(storage.read(path))).num_rows for path in parts(root)] == [1, 1]


def test_models_do_not_see_each_others_answers(root: str) -> None:
    # The first two are the same text once what folders may not be called is taken out.
    models = ["org/judge@1", "org_judge@1", "org/judge@2"]
    assert len({folder_of(model) for model in models}) == 3
    with Ledger(root) as ledger:
        for model in models:
            ledger.add(model, [answer("k", f"by {model}")])
    for model in models:
        assert find(root, ["k"], model)[key("k")].text == f"by {model}"


def test_the_writer_thread_writes_within_its_time_and_ends_with_the_ledger(tmp_path: Path) -> None:
    root = str(tmp_path)
    ledger = Ledger(root, flush_seconds=0.05)
    ledger.add(MODEL, answers(1))
    until(lambda: parts(root))
    assert find(root, [1]) == expected([1])
    ledger.close()
    assert "ledger-flush" not in {thread.name for thread in threading.enumerate()}
    ledger.add(MODEL, answers(2))  # a closed ledger may be used again
    assert ledger.find(MODEL, [key(1), key(2)]) == expected([1, 2])
    ledger.close()
    assert find(root, [1, 2]) == expected([1, 2])
    assert "ledger-flush" not in {thread.name for thread in threading.enumerate()}


def test_rows_beyond_one_row_group_are_each_found(root: str) -> None:
    names = list(range(2 * ROW_GROUP + 5))
    store(root, *names)
    assert pq.ParquetFile(io.BytesIO(storage.read(parts(root)[0]))).num_row_groups == 3
    some = [0, ROW_GROUP - 1, ROW_GROUP, 2 * ROW_GROUP, names[-1], 77]
    assert find(root, some) == expected(some)
    assert find(root, names) == expected(names)


def test_more_row_groups_than_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CACHED_GROUPS", 2)
    for name in range(6):
        store(str(tmp_path), name)
    with Ledger(str(tmp_path)) as ledger:
        for _ in range(2):
            assert ledger.find(MODEL, [key(n) for n in range(6)]) == expected(range(6))
        assert len(ledger._shelves[MODEL]._files) <= 2


def test_equal_keys_in_two_parts_are_harmless(root: str) -> None:
    with Ledger(root, flush_seconds=NEVER) as ledger:
        ledger.add(MODEL, [answer("same", "first"), answer("a")])
    with Ledger(root, flush_seconds=NEVER) as ledger:
        ledger.add(MODEL, [answer("same", "second"), answer("b")])
    assert len(parts(root)) == 2
    for _ in range(2):  # the first answer wins, every time
        found = find(root, ["same", "a", "b"])
        assert found == {**expected(["a", "b"]), key("same"): answer("same", "first")}


def test_keys_that_share_their_first_eight_bytes(root: str) -> None:
    """The index knows eight bytes of a key; rows are told apart by all of them."""

    def crafted(end: int) -> bytes:
        return b"\xff" * 8 + end.to_bytes(24, "big")

    def made(end: int) -> Generation:
        return Generation(crafted(end), f"text {end}", "stop", 1, 1, end, "scripted 1")

    with Ledger(root, flush_seconds=NEVER) as ledger:
        ledger.add(MODEL, [made(1), answer("x"), made(2)])
        ledger.flush()
        ledger.add(MODEL, [made(3)])
        assert ledger.find(MODEL, [crafted(2), crafted(9)]) == {crafted(2): made(2)}
    with Ledger(root) as ledger:
        assert ledger.find(MODEL, [crafted(9)]) == {}
        assert ledger.find(MODEL, [crafted(e) for e in (3, 1, 9, 2)]) == {crafted(e): made(e) for e in (1, 2, 3)}


# --- ends of the process


_WRITER = """
import os, sys, time
from pugc_core.engines.base import Generation
from pugc_core.ledger.store import Ledger
import hashlib

def answer(name):
    return Generation(hashlib.sha256(str(name).encode()).digest(), f"text of {name}", "stop", 7, 3, 11, "scripted 1")
"""


def start(code: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER + code, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_an_abrupt_exit_loses_nothing_that_is_older_than_the_flush_time(tmp_path: Path) -> None:
    code = """
ledger = Ledger(sys.argv[1], flush_seconds=0.2)
ledger.add("judge@1", [answer(n) for n in range(50)])
time.sleep(2.0)  # what the ledger promises
os._exit(3)
"""
    process = start(code, str(tmp_path))
    assert process.wait(30) == 3
    assert find(str(tmp_path), range(50)) == expected(range(50))


def test_kill_9_loses_at_most_the_last_flush_time(tmp_path: Path) -> None:
    code = """
ledger = Ledger(sys.argv[1], flush_seconds=0.1)
for n in range(100_000):
    ledger.add("judge@1", [answer(n)])
    print(n, flush=True)
    time.sleep(0.002)
"""
    process = start(code, str(tmp_path))
    added: dict[int, float] = {}
    while sum(when < time.monotonic() - 1.0 for when in list(added.values())[:20]) < 20:
        added[int(line(process))] = time.monotonic()
    killed = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    # Ten times the flush time, for a busy machine.
    safe = [n for n, when in added.items() if when < killed - 1.0]
    names = list(range(max(safe) + 1))
    assert len(names) >= 20
    assert find(str(tmp_path), names) == expected(names)


# --- writers and readers beside each other


def test_threads_write_into_one_ledger(root: str) -> None:
    with Ledger(root, flush_seconds=0.02) as ledger:

        def work(worker: int) -> None:
            for n in range(25):
                ledger.add(MODEL, answers((worker, n)))
                assert ledger.find(MODEL, [key((worker, n))]) == expected([(worker, n)])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    names = [(worker, n) for worker in range(4) for n in range(25)]
    assert find(root, names) == expected(names)


def test_ledgers_of_several_threads_write_and_merge_in_one_folder(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    gate = threading.Barrier(3)

    def work(worker: int) -> None:
        gate.wait(10)
        for n in range(5):
            store(root, (worker, n), "shared")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    names = [*((worker, n) for worker in range(3) for n in range(5)), "shared"]
    assert find(root, names) == expected(names)


def test_processes_write_and_merge_in_one_folder(tmp_path: Path) -> None:
    code = """
from pugc_core.ledger import store as module
module.MANY = 4
print("ready", flush=True)
sys.stdin.read()
for n in range(15):
    with Ledger(sys.argv[1], flush_seconds=60) as ledger:
        ledger.add("judge@1", [answer((sys.argv[2], n)), answer("shared")])
"""
    command = [sys.executable, "-c", _WRITER + code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen([*command, name], text=True, **pipes) for name in "ab"]
    assert [line(p) for p in processes] == ["ready", "ready"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [p.wait(60) for p in processes] == [0, 0]
    names = [*((w, n) for w in "ab" for n in range(15)), "shared"]
    assert find(str(tmp_path), names) == expected(names)
    assert len(parts(str(tmp_path))) < 30


def merge(root: str) -> None:
    """As another process does it when it closes."""
    before = len(parts(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MANY", 2)
        find(root, [])
    assert len(parts(root)) < before


def test_a_reader_goes_on_while_another_process_merges(root: str) -> None:
    for name in range(5):
        store(root, name)
    with Ledger(root, flush_seconds=NEVER) as reader:
        assert reader.find(MODEL, [key(0)]) == expected([0])  # now it has an index, and one part at hand
        reader.add(MODEL, answers("mine"))
        reader.flush()
        reader.add(MODEL, answers("pending"))
        merge(root)
        assert len(parts(root)) == 1
        names = [0, 1, 2, 3, 4, "mine", "pending"]
        assert reader.find(MODEL, [key(n) for n in names]) == expected(names)
        assert reader.find(MODEL, [key("nobody's")]) == {}
    assert find(root, names) == expected(names)


def test_a_merge_between_listing_and_reading_hides_nothing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lists the folder, then finds its files gone, must see the part that took their place."""
    for name in range(4):
        store(root, name)
    listing, merged = storage.names, []

    def listed_then_merged(folder: str, suffix: str = "") -> list[str]:
        names = listing(folder, suffix)
        if not merged:
            merged.append(True)
            merge(root)
        return names

    monkeypatch.setattr(storage, "names", listed_then_merged)
    assert find(root, range(4)) == expected(range(4))
    assert merged


def test_parts_that_never_stay_are_an_error_not_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(str(tmp_path), 1)

    def gone(*_: object) -> pa.Table:
        raise FileNotFoundError

    with Ledger(str(tmp_path), flush_seconds=NEVER) as ledger:
        assert ledger.find(MODEL, []) == {}
        monkeypatch.setattr(module._Shelf, "_group", gone)
        with pytest.raises(StorageError, match="vanish"):
            ledger.find(MODEL, [key(1)])


def test_files_that_other_processes_write_and_delete_are_seen(s3_root: str, s3_endpoint: str) -> None:
    """s3fs keeps listings; another process does not tell it of its changes."""
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    bucket, prefix = s3_root.removeprefix("s3://").split("/", 1)
    path = f"{s3_root}/folder/b"

    def open_and_read() -> bytes:
        fs, inner = storage.filesystem(path)
        with fs.open(inner, "rb") as handle:
            return bytes(handle.read())

    storage.write(f"{s3_root}/folder/a", b"1")
    assert storage.names(f"{s3_root}/folder") == ["a"]
    assert not storage.exists(path)
    client.put_object(Bucket=bucket, Key=f"{prefix}/folder/b", Body=b"22")
    assert storage.exists(path)
    assert open_and_read() == b"22"
    assert storage.names(f"{s3_root}/folder") == ["a", "b"]
    client.put_object(Bucket=bucket, Key=f"{prefix}/folder/b", Body=b"333333")
    assert open_and_read() == b"333333"
    client.delete_object(Bucket=bucket, Key=f"{prefix}/folder/b")
    assert not storage.exists(path)
    with pytest.raises(FileNotFoundError):
        open_and_read()


# --- merging


def test_merging_keeps_all_rows_and_shrinks_the_number_of_files(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 8)
    for n in range(7):
        store(root, (n, "a"), (n, "b"))
    assert len(parts(root)) == 7  # not many yet
    store(root, (7, "a"), (7, "b"))
    assert len(parts(root)) == 1
    names = [(n, x) for n in range(8) for x in "ab"]
    assert find(root, names) == expected(names)
    table = pq.read_table(io.BytesIO(storage.read(parts(root)[0])))
    assert table.schema.remove_metadata() == SCHEMA
    assert table.column("key").to_pylist() == [key(name) for name in names]  # in the order they came


def test_large_parts_are_left_alone(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 2)
    monkeypatch.setattr(module, "SMALL", 3)
    store(root, 1, 2, 3)
    (large,) = parts(root)
    store(root, 4)
    store(root, 5)
    assert len(parts(root)) == 2
    assert large in parts(root)
    assert find(root, range(1, 6)) == expected(range(1, 6))


def test_a_long_run_merges_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", 3)
    root = str(tmp_path)
    most = 0
    with Ledger(root, flush_seconds=NEVER) as ledger:
        for n in range(40):
            ledger.add(MODEL, answers(n))
            ledger.flush()
            most = max(most, len(parts(root)))
            assert ledger.find(MODEL, [key(n), key(n // 2), key(0)]) == expected([n, n // 2, 0])
    assert most <= 12
    assert find(root, range(40)) == expected(range(40))


def test_a_merge_cut_short_leaves_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between writing the merged part and deleting the small ones: rows stand twice, none is missing."""
    root = str(tmp_path)
    for n in range(4):
        store(root, n)
    deleted = []

    def delete_two(path: str) -> None:
        deleted.append(path)
        if len(deleted) > 2:
            raise KeyboardInterrupt
        Path(path).unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MANY", 2)
        patch.setattr(storage, "delete", delete_two)
        with pytest.raises(KeyboardInterrupt):
            find(root, [])
    assert len(parts(root)) == 3
    assert find(root, range(4)) == expected(range(4))
    merge(root)
    assert find(root, range(4)) == expected(range(4))


# --- damage


def damage(path: str, change: Callable[[bytes], bytes]) -> None:
    storage.write(path, change(storage.read(path)))


def set_aside(root: str, model: str = MODEL) -> list[str]:
    return storage.names(storage.join(root, folder_of(model), "damaged"))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "other content": lambda data: b"no parquet at all",
    "zeros in the rows": lambda data: data[:4] + bytes(60) + data[64:],
    "of another schema": lambda data: parquet({"other": [1]}),
    "keys of another width": lambda data: parquet({"key": [b"short"]}),
}


def parquet(columns: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_part_is_set_aside_and_its_answers_are_asked_again(
    root: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store(root, *range(20))
    store(root, "whole")
    path = parts(root)[0]
    damage(path, DAMAGES[name])
    assert find(root, [*range(20), "whole"]) == expected(["whole"])
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert path in told
    assert "asked for again" in told
    assert set_aside(root) == [path.rsplit("/", 1)[1]]
    store(root, *range(20))
    assert find(root, [*range(20), "whole"]) == expected([*range(20), "whole"])
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1, "told once"


def test_a_part_that_is_damaged_while_the_ledger_is_open(tmp_path: Path) -> None:
    root = str(tmp_path)
    store(root, *range(20))
    store(root, "whole")
    with Ledger(root, flush_seconds=NEVER) as ledger:
        assert ledger.find(MODEL, [key("whole")]) == expected(["whole"])  # indexed now, and not read
        ledger.add(MODEL, answers("new"))
        damage(parts(root)[0], lambda data: data[:4] + bytes(200) + data[204:])
        assert ledger.find(MODEL, [key(n) for n in (*range(20), "whole", "new")]) == expected(["whole", "new"])
    assert len(set_aside(root)) == 1


def test_a_damaged_part_is_no_part_of_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    for name in range(4):
        store(root, name)
    with Ledger(root, flush_seconds=NEVER) as ledger:
        assert ledger.find(MODEL, []) == {}
        monkeypatch.setattr(module, "MANY", 2)
        damage(parts(root)[1], lambda data: data[:4] + bytes(60) + data[64:])
    assert find(root, range(4)) == expected([0, 2, 3])
    assert len(parts(root)) == len(set_aside(root)) == 1


def test_where_a_damaged_part_cannot_be_moved_it_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = str(tmp_path)
    store(root, 1)
    store(root, 2)
    damage(parts(root)[0], lambda data: b"")

    def refuse(*_: object) -> None:
        raise StorageError("read-only file system")

    monkeypatch.setattr(storage, "move", refuse)
    assert find(root, [1, 2]) == expected([2])
    assert "stays where it is (read-only file system)" in caplog.text


def test_a_part_that_cannot_be_reached_just_now_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    store(root, 1)

    def away(path: str) -> bytes:
        raise StorageError(f"cannot read {path}: timed out")

    monkeypatch.setattr(storage, "read", away)
    with pytest.raises(StorageError, match="timed out"):
        find(root, [1])
    monkeypatch.undo()
    assert find(root, [1]) == expected([1])


def _mangled(whole: bytes, dice: random.Random) -> bytes:
    """Damage of a kind that disks, transfers and people do."""
    data, place = bytearray(whole), dice.randrange(len(whole))
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    kind = dice.randrange(8)
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        return bytes(data[place:])
    if kind == 2:
        return bytes(data) + dice.randbytes(dice.randrange(1, 100))
    if kind == 3:  # a block of zeros, as after a crash of the system
        data[place : place + 512] = bytes(len(data[place : place + 512]))
    elif kind == 4:  # two blocks in each other's place
        size, other = 64, dice.randrange(len(whole))
        first, second = data[place : place + size], data[other : other + size]
        if len(first) == len(second):
            data[place : place + size], data[other : other + size] = second, first
    else:  # single bytes, mostly of the footer, which no checksum of Parquet's covers
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(footer, len(whole)) if kind > 5 else dice.randrange(len(whole))
            data[at] ^= dice.randrange(1, 256)
    return bytes(data)


def test_no_damage_gives_a_wrong_answer_or_stops_anything(memory_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done to a part of several row groups: right answers or none, and what is added is found."""
    monkeypatch.setattr(module, "ROW_GROUP", 16)
    dice, names, lost = random.Random(7), range(40), 0
    store(f"{memory_root}/whole", *names)
    (path,) = parts(f"{memory_root}/whole")
    whole = storage.read(path)
    for turn in range(300):
        root = f"{memory_root}/{turn}"
        storage.write(path.replace("/whole/", f"/{turn}/"), _mangled(whole, dice))
        with Ledger(root, flush_seconds=NEVER) as ledger:
            found = ledger.find(MODEL, [key(n) for n in names])
            assert found.items() <= expected(names).items(), turn
            ledger.add(MODEL, answers(*names))
            ledger.flush()
            assert ledger.find(MODEL, [key(n) for n in names]) == expected(names), turn
        lost += len(found) < len(names)
    assert lost > 100


def test_a_footer_that_points_to_other_rows_is_found_out(tmp_path: Path) -> None:
    """Texts of one row group under the keys of another: every page is whole, and every text is wrong."""
    root = str(tmp_path)
    store(root, 1, 2)
    (path,) = parts(root)
    table = pq.read_table(io.BytesIO(storage.read(path)))
    swapped = table.set_column(1, table.schema.field(1), table.column("text").take([1, 0]))
    buffer = io.BytesIO()
    pq.write_table(swapped, buffer, write_page_checksum=True)
    storage.write(path, buffer.getvalue())
    assert find(root, [1, 2]) == {}
    assert len(set_aside(root)) == 1


# --- parts of earlier versions, absurd counts, larger contexts


def old_part(root: str, *names: object) -> None:
    """A part as versions before `context` and `checksum` wrote it."""
    table = pa.table({n: [getattr(answer(x), n) for x in names] for n in SCHEMA.names[:7]})
    old = table.cast(pa.schema([SCHEMA.field(n) for n in SCHEMA.names[:7]]))
    folder = Path(root) / folder_of(MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{len(list(folder.iterdir())):020d}-0123456789ab.parquet"
    pq.write_table(old, path, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)


def test_parts_of_earlier_versions_are_read_and_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    old_part(root, 1, 2)
    old_part(root, 3)
    assert find(root, [1, 2, 3]) == expected([1, 2, 3])
    store(root, 4)
    monkeypatch.setattr(module, "MANY", 3)
    find(root, [])
    assert len(parts(root)) == 1
    assert find(root, [1, 2, 3, 4]) == expected([1, 2, 3, 4])


def test_an_absurd_count_does_not_block_the_ledger(tmp_path: Path) -> None:
    root = str(tmp_path)
    counts = {"prompt_tokens": 2**40, "completion_tokens": 2**64, "context": -5}
    with Ledger(root, flush_seconds=NEVER) as ledger:
        ledger.add(MODEL, [dataclasses.replace(answer("odd"), **counts), answer("even")])
    found = find(root, ["odd", "even"])
    assert found[key("even")] == answer("even")
    odd = found[key("odd")]
    assert (odd.prompt_tokens, odd.completion_tokens, odd.context) == (2**31 - 1, 2**31 - 1, 0)


def test_a_cut_answer_gives_way_to_one_under_a_larger_context(root: str) -> None:
    def cut(text: str, context: int, finish: str = "length") -> Generation:
        return dataclasses.replace(answer("k", text), finish_reason=finish, context=context)

    cases = [
        ([cut("small", 64), cut("large", 128)], "large"),
        ([cut("large", 128), cut("small", 64)], "large"),
        ([cut("first", 64), cut("second", 64)], "first"),
        ([cut("old", 0), cut("new", 64, "stop")], "new"),
        ([cut("done", 0, "stop"), cut("cut", 64)], "done"),
    ]
    for number, (written, wins) in enumerate(cases):
        place = storage.join(root, str(number))
        for generation in written:
            with Ledger(place, flush_seconds=NEVER) as ledger:
                ledger.add(MODEL, [generation])
        assert find(place, ["k"])[key("k")].text == wins, number


# --- a full disk


@contextmanager
def full_disk(root: str) -> Iterator[None]:
    """While it lasts, the system refuses every write with ENOSPC, below pugc's own storage layer."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fs, _ = storage.filesystem(root)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(fs, storage.LocalFileSystem):
            patch.setattr(storage.os, "fsync", refuse)
        else:
            patch.setattr(type(fs), "pipe_file", refuse, raising=False)
            patch.setattr(fs, "pipe_file", refuse, raising=False)
        yield


def all_files(root: str) -> list[str]:
    fs, inner = storage.filesystem(root)
    return list(fs.find(inner)) if fs.exists(inner) else []


def test_a_full_disk_is_told_by_flush_and_nothing_is_lost_once_there_is_space(root: str) -> None:
    with Ledger(root, flush_seconds=NEVER) as ledger:
        ledger.add(MODEL, answers(1, 2))
        ledger.add("other@1", answers("o"))
        with full_disk(root):
            for _ in range(2):
                with pytest.raises(StorageError) as caught:
                    ledger.flush()
                assert "No space left" in caught.value.problem
                assert "free disk space" in str(caught.value.fix)
            assert all_files(root) == []  # no half file, no temporary one
            ledger.add(MODEL, answers(3))
            assert ledger.find(MODEL, [key(1), key(3)]) == expected([1, 3])
        ledger.flush()
        assert find(root, [1, 2, 3]) == expected([1, 2, 3])
        assert find(root, ["o"], "other@1") == expected(["o"])


def test_a_full_disk_met_by_the_writer_thread_is_told_at_the_next_add(root: str) -> None:
    added = [0]
    ledger = Ledger(root, flush_seconds=0.02)
    with full_disk(root):
        ledger.add(MODEL, answers(0))

        def told() -> bool:
            added.append(len(added))
            try:
                ledger.add(MODEL, answers(added[-1]))
            except StorageError as err:
                return "free disk space" in str(err.fix)
            return False

        for _ in range(2):  # not only once: it is told as long as it lasts
            until(told)
        with pytest.raises(StorageError):
            ledger.close()
    # Space is back: the same object writes everything, also what came with the calls that raised.
    ledger.close()
    assert find(root, added) == expected(added)


def test_an_error_that_is_not_the_systems_does_not_end_the_writer_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers of object stores raise errors of their own, such as botocore's when a server cannot be reached."""
    root = str(tmp_path)
    monkeypatch.setattr(storage, "_write_local", lambda *_: (_ for _ in ()).throw(RuntimeError("the server is away")))
    with Ledger(root, flush_seconds=0.02) as ledger:
        ledger.add(MODEL, answers(1))
        until(lambda: ledger._failure)
        with pytest.raises(StorageError, match="the server is away"):
            ledger.add(MODEL, answers(2))
        monkeypatch.undo()
        until(lambda: parts(root))
        assert find(root, [1, 2]) == expected([1, 2])


def test_a_folder_that_cannot_be_made_is_told_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    ledger = Ledger(str(tmp_path / "file" / "below"), flush_seconds=NEVER)
    ledger.add(MODEL, answers(1))
    with pytest.raises(StorageError) as caught:
        ledger.flush()
    assert caught.value.fix
    ledger._shelves.clear()
    ledger.close()


def test_a_refreshed_ledger_sees_what_another_has_written(root: str) -> None:
    with Ledger(root, flush_seconds=NEVER) as early:
        early.add(MODEL, answers("own"))
        early.flush()
        assert early.find(MODEL, [key("theirs")]) == {}
        store(root, "theirs")
        early.refresh()
        assert early.find(MODEL, [key("theirs"), key("own")]) == expected(["theirs", "own"])
