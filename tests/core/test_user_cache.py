"""Folders of the user's cache: made once, whole or not at all, by one process at a time."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pugc_core.errors import PugcError, StorageError
from pugc_core.models.smollm2 import cache

NAME, OTHER = "smollm2-0123456789abcdef-1", "smollm2-roles-0123456789abcdef-2"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PUGC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def builder(calls: list[Path] | None = None) -> Callable[[Path], Path]:
    def build(work: Path) -> Path:
        (calls if calls is not None else []).append(work)
        out = work / "model"
        out.mkdir(mode=0o700)
        (out / "weights").write_bytes(b"1234")
        (out / "weights").chmod(0o600)
        (work / "scratch").write_bytes(b"x" * 100)
        return out

    return build


def make(build: Callable[[Path], Path], said: list[str] | None = None, size: int = 0) -> Path:
    return cache.made(NAME, size, build, (said if said is not None else []).append)


def left(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if not p.name.endswith(".lock"))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    cases = [
        ({"PUGC_CACHE": "/big/pugc", "XDG_CACHE_HOME": "/xdg"}, "/big/pugc"),
        ({"PUGC_CACHE": "~/mine"}, "/home/ann/mine"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/pugc"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/ann/.cache/pugc"),
        ({}, "/home/ann/.cache/pugc"),
    ]
    for env, place in cases:
        for name in ("PUGC_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert str(cache.root()) == place, env
    monkeypatch.setenv("PUGC_CACHE", "relative")
    with pytest.raises(StorageError, match="not an absolute path") as err:
        cache.root()
    assert err.value.fix == f"export PUGC_CACHE={Path.cwd()}/relative"


def test_a_folder_is_made_once_and_everybody_may_read_it(root: Path) -> None:
    calls: list[Path] = []
    assert make(builder(calls)) == make(builder(calls)) == root / NAME
    assert len(calls) == 1
    assert left(root) == [NAME]
    assert stat.S_IMODE((root / NAME).stat().st_mode) == 0o755
    assert {stat.S_IMODE(p.stat().st_mode) for p in (root / NAME).iterdir()} == {0o644}


def test_what_a_killed_process_left_is_swept_and_never_believed(root: Path) -> None:
    script = (
        "import os, time\nfrom pathlib import Path\nfrom pugc_core.models.smollm2 import cache\n"
        "def build(work):\n    out = work / 'model'; out.mkdir(); (out / 'weights').write_bytes(b'12')\n"
        "    print('half', flush=True); time.sleep(600)\n"
        f"cache.made({NAME!r}, 0, build, print)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        child.kill()
    assert [name.endswith(".part") for name in left(root)] == [True]
    assert cache.damage(root / NAME) is not None
    (make(builder()) / "weights").read_bytes()
    assert left(root) == [NAME]


@pytest.mark.parametrize("harm", ["short", "missing", "no mark"])
def test_a_damaged_folder_is_made_again_and_says_so(root: Path, harm: str) -> None:
    made = make(builder())
    if harm == "short":
        (made / "weights").write_bytes(b"1")
    else:
        (made / ("weights" if harm == "missing" else ".whole")).unlink()
    said: list[str] = []
    assert make(builder(), said) == made
    assert cache.damage(made) is None
    (sentence,) = said
    assert sentence.endswith("it is made again")
    assert {"short": "1 bytes of 4", "missing": "weights is missing", "no mark": "not finished"}[harm] in sentence


def test_an_error_leaves_nothing(root: Path) -> None:
    def fail(work: Path) -> Path:
        builder()(work)
        raise PugcError("no such thing")

    with pytest.raises(PugcError, match="no such thing"):
        make(fail)
    assert left(root) == []


def test_of_two_at_once_one_works_and_the_other_waits(root: Path) -> None:
    calls: list[Path] = []
    said: list[str] = []
    begun = threading.Event()

    def slow(work: Path) -> Path:
        begun.set()
        while not said:  # until the other waits
            time.sleep(0.01)
        return builder(calls)(work)

    first = threading.Thread(target=make, args=(slow,))
    first.start()
    assert begun.wait(30)
    assert make(builder(calls), said) == root / NAME
    first.join()
    assert len(calls) == 1
    assert said == [f"another process is making {NAME}: waiting for it"]


def test_no_room_is_told_before_anything_is_done(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(root.parent)._replace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    calls: list[Path] = []
    with pytest.raises(StorageError) as err:
        make(builder(calls), size=464_000_000)
    assert calls == []
    assert err.value.problem == f"no space in {root}: 464 MB are needed, 100 MB are free"
    assert "export PUGC_CACHE=" in (err.value.fix or "")

    def full(work: Path) -> Path:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="99 MB are needed"):
        make(full, size=99_000_000)
    assert left(root) == []


def test_a_cache_that_cannot_be_written(root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(StorageError, match="cannot write the cache") as err:
        make(builder())
    assert "export PUGC_CACHE=" in (err.value.fix or "")


def test_what_other_versions_left_is_pruned_and_nothing_else(root: Path) -> None:
    assert cache.prune({NAME}) == [], "there is no cache yet"
    make(builder())
    for old in (OTHER, "smollm2-aaaaaaaaaaaaaaaa-1"):
        cache.made(old, 0, builder(), print)
    busy = "smollm2-bbbbbbbbbbbbbbbb-1"
    (root / f".{NAME.replace('-1', '-9')}.1234.part").mkdir()
    for mine in ("notes", "smollm2-mine", "smollm2-0123456789abcdef"):
        (root / mine).mkdir()
    with cache._alone(busy, None):
        (root / f".{busy}.1.part").mkdir()
        removed = cache.prune({NAME})
    assert [p.name for p in removed] == ["smollm2-aaaaaaaaaaaaaaaa-1", OTHER]
    kept = [f".{busy}.1.part", "notes", NAME, "smollm2-0123456789abcdef", "smollm2-mine"]
    assert left(root) == sorted(kept)
