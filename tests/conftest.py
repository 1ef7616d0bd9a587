"""What all tests share: a project folder of their own, with a scripted recipe and small shards."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("pugc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pugc")

REPOSITORY = Path(__file__).parent.parent
LONG = ("browser", "integration", "training")
"""Folders whose tests begin first: several processes then end at about the same time, with the short ones."""
SCRIPTED = """
extends = "tiny"
about = "The scripted engine plays every role."
[models.tiny]
engine = "scripted"
[ugc]
max_chars = 2500
"""
"""With posts of other lengths than `tiny` takes, so that it shares no table with it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((i for i, name in enumerate(LONG) if name in item.path.parts), len(LONG)))


def write_posts(path: Path, count: int, *, topic: str) -> Path:
    """A jsonl file of posts that differ from each other and are long enough to be kept."""
    lines = [
        {
            "title": f"{topic} number {i}",
            "body": f"Post {i} on {topic}. " + f"First do step {i}, then look at the {topic} again and wait. " * 5,
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def posts(tmp_path: Path) -> Callable[..., Path]:
    """Makes source files: posts("shard-a", 10)."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    return lambda name, count=8: write_posts(folder / f"{name}.jsonl", count, topic=name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project in a folder of its own, as `pugc` and `dagster` find it, with the recipe `scripted`."""
    root = tmp_path / "project"
    (root / "recipes").mkdir(parents=True)
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, root)
    (root / "recipes" / "scripted.toml").write_text(SCRIPTED, encoding="utf-8")
    for name in ("PUGC_DATA", "PUGC_RECIPES"):
        monkeypatch.delenv(name, raising=False)
    # Whatever this machine has in its user's cache: no test depends on it.
    monkeypatch.setenv("PUGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PUGC_RECIPE", "tiny")
    monkeypatch.setenv("DAGSTER_HOME", str(root))
    monkeypatch.chdir(root)
    yield root
    logging.getLogger("pugc").handlers.clear()
