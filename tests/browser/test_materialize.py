"""Story A, docs/materialize.md: from bundled posts to trained policies, in the web UI."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.stories import PATIENCE, RECIPE

from pugc_core.plan import Chain
from pugc_core.results import dropped_rows
from pugc_core.tables.workspace import Workspace
from pugc_dagster.runs import execute
from pugc_dagster.terminal import console

CHAIN = ["ugc", "quality", "instructions", "relevance", "responses", "rewards", "pairs", "dataset", "dpo", "report"]


@pytest.mark.slow
def test_materialize_all_and_read_what_came_of_it(
    site: Any, page: Any, picture: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = console.samples()
    with execute.instance() as instance:
        execute.ingest(instance, Workspace(str(site.project / "data")), [str(path) for path in shards])

    # The chain, in run order.
    page.goto(f"{site.url}/locations/pugc/asset-groups/{RECIPE}/lineage")
    nodes = [page.locator(f"text=/^{name}$/").first for name in CHAIN]
    nodes[0].wait_for()
    places = [node.bounding_box()["x"] for node in nodes]
    assert places == sorted(places)
    picture("a1-chain")

    # Materialize all, choose shards.
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_text(f"{len(shards)} partitions").first.wait_for()
    picture("a2-choose-shards")
    page.get_by_role("button", name="Launch backfill").click()

    # Progress, live in the run's log.
    run = site.wait("a run", site.runs)[-1]
    page.goto(f"{site.url}/runs/{run['runId']}")
    page.get_by_text(f"{RECIPE} rewards:").first.wait_for(timeout=240_000 * PATIENCE)
    picture("a3-live-progress")
    site.wait("the backfill", site.backfilled, 400 * PATIENCE)
    assert len(site.runs()) <= 3  # a few shards, ten stages: a handful of runs

    # Every asset says in a sentence what it is.
    page.goto(f"{site.url}/assets/{RECIPE}/pairs")
    page.get_by_text("preferences that nobody had to label").first.wait_for()

    # The distribution of the rewards, with and without ties; parse rate, tokens.
    page.goto(f"{site.url}/assets/{RECIPE}/rewards?view=events")
    page.get_by_text("without ties").first.wait_for()
    for words in ("of the votes parsed", "run/parse_rate", "run/completion_tokens"):
        assert page.get_by_text(words).first.is_visible(), words
    picture("a4-rewards")

    # Three pairs, side by side.
    page.goto(f"{site.url}/assets/{RECIPE}/pairs?view=events")
    page.get_by_text("three pairs").first.wait_for()
    page.get_by_text("[Show Markdown]").first.click()
    page.get_by_text("chosen (").first.wait_for()
    assert page.get_by_text("chosen (").count() == page.get_by_text("rejected (").count() == 3
    picture("a5-pairs")

    # Checks, all of them passed.
    page.goto(f"{site.url}/assets/{RECIPE}/rewards?view=checks")
    page.get_by_text("votes_complete").first.wait_for()
    assert page.get_by_text("Succeeded").count() == 8
    picture("a6-checks")

    # The curves of the training.
    page.goto(f"{site.url}/assets/{RECIPE}/policy/dpo?view=events")
    page.locator("tr", has_text="curves").get_by_text("[Show Markdown]").first.click()
    curves = page.locator("img[src^='data:image/png']").first
    curves.wait_for()
    assert curves.evaluate("image => image.naturalWidth") > 300
    picture("a7-policy")

    # The report, of which one pair is opened.
    page.goto((site.project / "data" / "reports" / f"{RECIPE}.html").as_uri())
    page.locator("#pairs .tabulator-row").first.wait_for()
    page.locator("#pairs").scroll_into_view_if_needed()
    picture("report")


def opened(page: Any, report: Path) -> list[str]:
    """Open a report from the disk; returns what it asked of any server."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    return [url for url in asked if not url.startswith(("file:", "data:"))]


@pytest.mark.slow
def test_the_report_opens_offline(project: Path, posts: Callable[..., Path], page: Any) -> None:
    from pugc_core.recipe import load
    from pugc_dagster import reports
    from pugc_dagster.project import recipe_folders

    with execute.instance() as instance:
        workspace = execute.workspace()
        execute.ingest(instance, workspace, [str(posts(name, 30)) for name in ("knives", "bread")])
        recipe = load("scripted", recipe_folders())
        execute.run(instance, Chain(recipe, workspace), to="dataset")
    page.context.set_offline(True)
    assert opened(page, Path(reports.write(Chain(recipe, workspace)))) == []
    assert page.locator("svg").count() >= 4
    rows = page.locator("#pairs .tabulator-row")
    rows.first.wait_for()
    everything = int(page.inner_text("#pairs-found").split()[0])
    assert everything > 5

    def found(table: str = "pairs") -> int:
        return int(page.inner_text(f"#{table}-found").split()[0])

    # Searched, filtered, sorted.
    page.fill("#pairs-search", "knives")
    assert 0 < found() < everything
    page.fill("#pairs-search", "")
    assert found() == everything
    page.get_by_label("shard").first.select_option("bread")
    assert 0 < found() < everything
    assert page.locator("#pairs .tabulator-cell[tabulator-field=shard]").all_inner_texts() == ["bread"] * rows.count()
    page.get_by_label("shard").first.select_option("")
    page.locator("#pairs .tabulator-col[tabulator-field=margin] .tabulator-col-title").click()
    margins = [float(m) for m in page.locator("#pairs .tabulator-cell[tabulator-field=margin]").all_inner_texts()]
    assert margins == sorted(margins)
    assert "cut off" in page.inner_text("body")
    # What was left out, by reason.
    reasons = page.get_by_label("reason").locator("option").all_inner_texts()
    assert reasons[1:]
    left_out = found("dropped")
    page.get_by_label("reason").select_option(reasons[1])
    assert 0 < found("dropped") <= left_out
    # A pair word by word, and from there to all behind it.
    rows.first.locator("a").click()
    assert page.locator("dialog ins").count() + page.locator("dialog del").count() > 0
    id_ = page.locator("dialog a").get_attribute("href").removeprefix("#pair-")
    page.locator("dialog a").click()
    whole = page.locator(f"#pair-{id_}")
    page.wait_for_function("id => document.getElementById(id).open", arg=f"pair-{id_}")
    text = whole.text_content()
    assert "seed" in text
    assert "judge@scripted" not in text  # the recipe's own model
    assert "tiny@scripted" in text
    assert whole.locator("table").first.locator("tr").count() >= 9  # eight votes and a head


HOSTILE = """</script><script>window.hacked = 1</script><img src="http://evil.example/x.png" onerror="hacked = 1">
<svg onload="hacked = 1"> {{ 7 * 7 }} <!-- ' " javascript:alert(1)"""


@pytest.mark.slow
def test_texts_in_the_report_never_become_markup(
    project: Path, posts: Callable[..., Path], page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pugc_core.recipe import load
    from pugc_dagster import reports
    from pugc_dagster.project import recipe_folders

    with execute.instance() as instance:
        workspace = execute.workspace()
        execute.ingest(instance, workspace, [str(posts("knives", 6))])
        recipe = load("scripted", recipe_folders())
        execute.run(instance, Chain(recipe, workspace), to="dataset")
    policy = Path(workspace.policy("scripted", "dpo"))
    policy.mkdir(parents=True)
    sample = {"question": HOSTILE, "start": HOSTILE, "trained": HOSTILE}
    (policy / "samples.json").write_text(json.dumps({"samples": [sample]}))
    texts = dict.fromkeys(("question", "chosen", "shard", "split", "license", "source", "url", "author"), HOSTILE)
    real = reports._row
    monkeypatch.setattr(reports, "_row", lambda *a: {**real(*a), **texts, "rejected": f"{HOSTILE} too"})
    lost = dict.fromkeys(("stage", "shard", "reason", "id", "text", "note"), HOSTILE)
    monkeypatch.setattr(dropped_rows, "sample", lambda *a: [lost])
    assert opened(page, Path(reports.write(Chain(recipe, workspace)))) == []
    for table in ("pairs", "dropped"):
        page.locator(f"#{table} .tabulator-row").first.click()
        assert HOSTILE.split()[0] in page.inner_text("dialog")
        page.locator("dialog > button").click()
    page.locator("#pairs .tabulator-cell[tabulator-field=chosen]").first.hover()
    assert "</script>" in page.inner_text(".sample")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, svg[onload]").count() == 0
    # Nor would it run if it did: the page's policy knows its own scripts only.
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
