"""Story C, docs/reward-prompt.md: the reward prompt changed; what is out of date is seen, made again, and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.stories import PATIENCE, RECIPE

from pugc_core.plan import Chain
from pugc_core.prompts.rewards import WORDINGS
from pugc_core.recipe import load
from pugc_core.results import call_log
from pugc_core.tables.workspace import Workspace
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute
from pugc_dagster.terminal import console


@pytest.mark.slow
def test_edit_see_refresh_compare(site: Any, page: Any, picture: Callable[[str], Path]) -> None:
    prompt = site.project / "recipes" / "judge.txt"
    # A wording of its own from the first: with the base's, its votes would be the base's.
    first = WORDINGS[load(RECIPE).rewards.prompt].user.replace("Compare the response", "Compare the response closely")
    prompt.write_text(first)
    (site.project / "recipes" / "mine.toml").write_text(f'extends = "{RECIPE}"\n[rewards]\nprompt = "judge.txt"\n')
    workspace = Workspace(str(site.project / "data"))
    shards = len(console.samples())
    with execute.instance() as instance:
        execute.ingest(instance, workspace, [str(path) for path in console.samples()])
        execute.run(instance, Chain(load("mine", recipe_folders()), workspace), to="dataset")

    def calls() -> dict[str, int]:
        return {stage: c["made"] for stage, c in call_log.last(workspace.calls("mine"))["stages"].items()}

    asked_first = calls()["rewards"]

    # Edit the prompt, reload definitions: the check says what is out of date, and why.
    prompt.write_text(first.replace("response closely", "response carefully"))
    page.goto(f"{site.url}/locations/pugc/asset-groups/mine/lineage")
    page.get_by_role("button", name="Reload definitions").click()
    page.get_by_text("rewards", exact=True).first.wait_for()
    for stage in ("rewards", "pairs"):
        page.goto(f"{site.url}/assets/mine/{stage}?view=checks&checkDetail=up_to_date")
        said = page.get_by_text(f"{shards} of {shards} shards out of date: the rewards prompt changed").first
        for _ in range(8):  # the sensor looks every quarter of a minute
            try:
                said.wait_for(timeout=15_000)
                break
            except Exception:
                page.reload()
        assert said.is_visible(), stage
        picture(f"c1-out-of-date-{stage}")
    page.goto(f"{site.url}/assets/mine/dataset?view=checks&checkDetail=up_to_date")
    page.get_by_text(f"{shards} of {shards} shards of pairs: the rewards prompt changed").first.wait_for()

    # Marked, they are what Dagster's own dialog picks as failed.
    page.goto(f"{site.url}/locations/pugc/jobs/mine_mark_stale/playground")
    page.get_by_role("button", name="Launch Run").click()
    site.wait("marks", lambda: [run for run in site.runs("mine_mark_stale") if run["status"] == "FAILURE"], 300)
    page.goto(f"{site.url}/assets/mine/rewards?view=overview")
    page.get_by_role("button", name="Materialize…").click()
    page.get_by_text("Failed", exact=True).last.click()
    page.get_by_text(f"{shards} partitions", exact=True).wait_for()

    # The job `mine_refresh`, from the launchpad, which names the shards and why.
    page.goto(f"{site.url}/locations/pugc/jobs/mine_refresh/playground")
    editor = page.locator(".CodeMirror").first
    editor.get_by_text("kitchen", exact=False).first.wait_for()
    assert editor.get_by_text("the rewards prompt changed", exact=False).count() >= shards
    picture("c2-refresh")
    page.get_by_role("button", name="Launch Run").click()
    site.wait("refresh", lambda: site.finished("mine_refresh"), 300 * PATIENCE)
    made = calls()
    assert set(made) == {"rewards", "pairs", "dataset"}
    assert made["rewards"] >= 0.9 * asked_first
    assert sum(made.values()) == made["rewards"]  # the judge, and nobody else

    # What the change did.
    page.goto(f"{site.url}/assets/mine/pairs?view=events")
    page.get_by_text("pairs flipped").first.wait_for()
    assert page.get_by_text("mean margin").first.is_visible()
    picture("c3-what-changed")
    if page.get_by_text("flipped pairs").count():
        page.get_by_text("[Show Markdown]").first.click()
        page.get_by_text("before", exact=True).first.wait_for()
        picture("c4-flipped")
        page.keyboard.press("Escape")
    page.goto(f"{site.url}/assets/mine/rewards?view=checks&checkDetail=up_to_date")
    page.get_by_text("up to date", exact=True).first.wait_for()

    # The old prompt back costs nothing.
    prompt.write_text(first)
    with execute.instance() as instance:
        execute.refresh(instance, Chain(load("mine", recipe_folders()), workspace))
    assert set(calls().values()) == {0}
