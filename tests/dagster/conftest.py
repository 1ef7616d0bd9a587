"""Projects that several tests begin from: run once, then copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("projects")


@pytest.fixture
def begun(project: Path, _kept: Path) -> Callable[[str, Callable[[], object]], Path]:
    """`begun(name, make)` is a project in which `make` has run: the first time really, from then on as a copy."""

    def take(name: str, make: Callable[[], object]) -> Path:
        if (_kept / name).exists():
            shutil.copytree(_kept / name, project, dirs_exist_ok=True)
        else:
            make()
            shutil.copytree(project, _kept / name)
        return project

    return take
