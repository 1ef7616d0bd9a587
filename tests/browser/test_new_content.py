"""Story B, docs/new-content.md: files arrive, change and go; nobody clicks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.stories import PATIENCE, RECIPE

from pugc_core.tables.workspace import Workspace
from pugc_dagster.terminal import console

SENSOR = """{ sensorOrError(sensorSelector: {repositoryName: "__repository__", repositoryLocationName: "pugc",
  sensorName: "RECIPE_new_content"}) { ... on Sensor { sensorState { status } } } }""".replace("RECIPE", RECIPE)
PARTITIONS = """{ assetNodeOrError(assetKey: {path: ["RECIPE", "ugc"]}) { ... on AssetNode {
  partitionKeys assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions } } } } }""".replace(
    "RECIPE", RECIPE
)


@pytest.mark.slow
def test_a_file_dropped_into_the_inbox_becomes_pairs(site: Any, page: Any, picture: Callable[[str], Path]) -> None:
    inbox = site.project / "data" / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    store = Workspace(str(site.project / "data")).store

    def partitions() -> list[str]:
        return list(site.ask(PARTITIONS)["assetNodeOrError"]["partitionKeys"])

    # Switch it on.
    page.goto(f"{site.url}/automation")
    row = page.locator("[class*=VirtualizedTable_row]").filter(has_text=f"{RECIPE}_new_content")
    row.wait_for()
    page.wait_for_timeout(2000)  # the row is drawn anew when the sensor's state has arrived
    row.locator("label, [role=switch]").last.click()
    site.wait("the sensor", lambda: site.ask(SENSOR)["sensorOrError"]["sensorState"]["status"] == "RUNNING", 30)
    picture("b1-switched-on")

    # A half-written file waits; a whole one becomes a shard, and then pairs.
    sample = console.samples()[0]
    content = sample.read_bytes()
    for path in console.samples()[:2]:
        shutil.copy(path, inbox / path.name)
    names = sorted(path.stem for path in console.samples()[:2])
    site.wait("partitions", lambda: sorted(partitions()) == names, 120)
    site.wait("pairs", lambda: store.shards(RECIPE, "pairs") == names, 400 * PATIENCE)
    assert len(site.runs(f"{RECIPE}_pairs")) == 1  # two files, one run
    page.goto(f"{site.url}/assets/{RECIPE}/pairs?view=partitions")
    page.get_by_text(names[0]).first.wait_for()
    picture("b2-new-shards")

    # A changed file is run again, a removed one retired.
    changed = content.splitlines(keepends=True)
    (inbox / sample.name).write_bytes(b"".join(changed[:-3]))
    before = store.footer(RECIPE, "ugc", sample.stem)
    assert before is not None

    def again() -> bool:
        footer = store.footer(RECIPE, "ugc", sample.stem)
        return footer is not None and footer.content != before.content and site.finished(f"{RECIPE}_pairs", least=2)

    site.wait("the changed file", again, 240 * PATIENCE)
    (inbox / f"{names[1]}.jsonl").unlink()
    site.wait("the retired shard", lambda: partitions() == [names[0]], 120)
    assert len(site.runs(f"{RECIPE}_pairs")) == 2
    page.goto(f"{site.url}/runs")
    page.get_by_text(f"{RECIPE}_pairs").first.wait_for()
    picture("b3-runs")
