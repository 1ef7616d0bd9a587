"""A browser, a running `dagster dev`, and pictures of what was seen."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.dev import dagster_dev, free_port
from helpers.stories import RECIPE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
RUNS = "{ runsOrError { ... on Runs { results { runId status jobName tags { key value } } } } }"
BACKFILLS = "{ partitionBackfillsOrError(limit: 5) { ... on PartitionBackfills { results { id status } } } }"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """For pictures a place with a short name, since paths are on them."""
    if "PUGC_PICTURES" not in os.environ:
        return tmp_path
    short = Path(tempfile.gettempdir()) / "demo"
    shutil.rmtree(short, ignore_errors=True)
    short.mkdir()
    return short


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install -y chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    found = browser.new_page(viewport={"width": 1360, "height": 860})
    found.set_default_timeout(60_000)
    yield found
    found.close()


@pytest.fixture
def picture(page: Any, tmp_path: Path) -> Callable[[str], Path]:
    """Takes a picture of what is on the page: into docs/pictures where PUGC_PICTURES names it, else aside."""
    folder = Path(os.environ.get("PUGC_PICTURES", tmp_path)).resolve()

    def take(name: str) -> Path:
        page.wait_for_timeout(800)  # until nothing moves
        page.screenshot(path=folder / f"{name}.png")
        return folder / f"{name}.png"

    return take


@dataclass
class Site:
    """The web UI of a project, and what GraphQL says of it."""

    project: Path
    url: str
    ask: Callable[..., dict[str, Any]]

    def wait(self, what: str, ready: Callable[[], Any], seconds: float = 240) -> Any:
        """Wait until `ready()` is truthy, and return it."""
        deadline = time.time() + seconds
        while not (found := ready()):
            assert time.time() < deadline, f"{what}: still not after {seconds} s"
            time.sleep(1)
        return found

    def runs(self, job: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(RUNS)["runsOrError"]["results"]
        return [run for run in found if job in (None, run["jobName"])]

    def finished(self, job: str | None = None, *, least: int = 1) -> bool:
        """Whether there are that many runs, and all of them succeeded."""
        found = self.runs(job)
        assert not [run for run in found if run["status"] in ("FAILURE", "CANCELED")], found
        return len(found) >= least and all(run["status"] == "SUCCESS" for run in found)

    def backfilled(self) -> bool:
        found = self.ask(BACKFILLS)["partitionBackfillsOrError"]["results"]
        assert not [b for b in found if "FAILED" in b["status"]], found
        return bool(found) and all(b["status"] == "COMPLETED_SUCCESS" for b in found)


@pytest.fixture
def site(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A running web UI over the project, as `make ui` starts it, cold."""
    port = free_port()
    (project / "recipes" / "scripted.toml").unlink()
    monkeypatch.setenv("PUGC_RECIPE", RECIPE)
    if RECIPE == "laptop":
        monkeypatch.delenv("PUGC_CACHE")  # its model is in the user's own
    with dagster_dev(project, port, command=("python", "-m", "pugc_dagster", "ui")) as ask:
        yield Site(project, f"http://127.0.0.1:{port}", ask)
