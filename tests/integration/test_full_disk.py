"""A disk that fills up in the middle of a run: a clear error, and the same command goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_survived(project: Path, small_disk: Path, posts: Callable[..., Path]) -> None:
    env = {**os.environ, "PUGC_DATA": str(small_disk)}

    def pugc(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pugc_dagster", *words]
        return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=240)

    assert pugc("ingest", *(str(posts(name, 20)) for name in "abc")).returncode == 0
    failed = pugc("run", "--recipe", "scripted", "--to", "dataset")
    assert failed.returncode == 1
    assert "No space left on device" in failed.stderr
    assert "free disk space and run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(small_disk.rglob("*.tmp"))

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = pugc("run", "--recipe", "scripted", "--to", "dataset")
    assert done.returncode == 0, done.stderr
    assert len(list((small_disk / "tables" / "scripted" / "pairs").glob("*.parquet"))) == 3
