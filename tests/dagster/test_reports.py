"""The report's page: what is in it, and that nothing else can get in."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2.utils import htmlsafe_json_dumps

from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_dagster import reports
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute


@pytest.fixture
def written(project: Path, posts: Callable[..., Path]) -> Callable[[], str]:
    """Writes the report of a scripted run and returns the page."""
    recipe = load("scripted", recipe_folders())
    with execute.instance() as instance:
        workspace = execute.workspace()
        execute.ingest(instance, workspace, [str(posts("knives", 10))])
        execute.run(instance, Chain(recipe, workspace), to="dataset")
    return lambda: Path(reports.write(Chain(recipe, workspace))).read_text(encoding="utf-8")


def data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    loaded: dict[str, Any] = json.loads(found.group(1))
    return loaded


def stripped(page: str) -> str:
    """The page without the scripts that ship."""
    for script in reports._scripts():
        page = page.replace(f"<script>{script}</script>", "")
    return page


def test_the_page_and_its_policy(written: Callable[[], str], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = written()
    assert reports.outside(page) == []
    pairs, lost = data(page)["pairs"], data(page)["dropped"]
    assert pairs[0]["margin"] == max(pair["margin"] for pair in pairs)
    assert {pair["shard"] for pair in pairs} == {"knives"}
    assert {row["stage"] for row in lost} >= {"quality"}
    assert all(row["text"] and row["reason"] for row in lost if row["stage"] == "quality")
    assert "% of the responses were cut off" in page
    assert "before and after" not in page
    # Only the scripts that ship run in it, and it may load nothing.
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert policy.group(1).startswith("default-src 'none'; ")
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
        for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    ]
    assert len(hashes) == 3
    assert policy.group(1).split("script-src ")[1].split() == hashes
    # Hostile text, an origin, a response that was cut off, and samples.
    sly = "</script><script>alert(1)</script><!-- &amp;"
    real = reports._row
    besides = {"license": "CC BY 4.0", "url": "javascript:alert(1)", "chosen_cut_off": True}
    monkeypatch.setattr(reports, "_row", lambda pair, known: {**real({**pair, **besides}, known), "question": sly})
    folder = project / "data" / "policies" / "scripted" / "dpo"
    folder.mkdir(parents=True)
    (folder / "samples.json").write_text(json.dumps({"samples": [{"question": sly, "start": "A", "trained": sly}]}))
    page = written()
    first = data(page)["pairs"][0]
    assert (first["question"], first["license"], first["chosen_cut_off"]) == (sly, "CC BY 4.0", True)
    assert "before and after" in page
    assert sly not in page
    assert len(re.findall(r"<script", stripped(page))) == 1


def test_a_policy_of_before_there_were_held_out_figures(written: Callable[[], str], project: Path) -> None:
    folder = project / "data" / "policies" / "scripted" / "dpo"
    folder.mkdir(parents=True)
    point = {"step": 1, "loss": 0.7, "margin": 0.1, "accuracy": 0.5, "learning_rate": 1e-5, "rows": 4}
    record = {"steps": 1, "n_train": 4, "n_test": 1, "dropped_too_long": 0, "seconds": 2.0, "device": "cpu"}
    (folder / "training.json").write_text(json.dumps({**record, "final": {"loss": 0.7}, "curve": [point]}))
    page = written()
    assert "1 steps on 4 pairs" in page
    assert "held-out pairs:" not in page


def test_only_what_would_be_loaded_counts_as_outside() -> None:
    words = 'background: url(http://x/y.png); <img src="http://x/a"> @import "http://x/b"'
    harmless = [
        f"<p>{html.escape(words)}</p>",
        "<p>url(http://x/y.png) src='http://x/z' href=z</p>",
        f'<script type="application/json" id="data">{htmlsafe_json_dumps(words)}</script>',
        f'<div title="{html.escape(words)}"></div>',
        '<a href="#pair"><use xlink:href="#m"/></a><path style="clip-path: url(#p)"/>',
        '<style>a { fill: url( "#p" ) }</style>',
    ]
    for page in harmless:
        assert reports.outside(page) == [], page
    for page in (
        "<style>a { background: url(http://x/y) }</style>",
        "<style>a { background: url( 'http://x/y' ) }</style>",
        '<style>@import "http://x/y";</style>',
        '<p style="background: url(&quot;http://x/y&quot;)">',
        "<img src=http://x/y>",
        '<IMG SRC = "http://x/y"/>',
        '<link rel="stylesheet" href="http://x/y">',
        '<image xlink:href="http://x/y"/>',
        '<script src="http://x/y"></script>',
    ):
        assert reports.outside(page) == ["http://x/y"], page


def test_what_is_kept_of_others_has_its_licence() -> None:
    folder = Path(reports.__file__).parent / "templates" / "vendor"
    for name in ("tabulator", "diff"):
        assert (
            "Permission is hereby granted" in (folder / f"{name}.LICENSE").read_text()
            or "Redistribution" in (folder / f"{name}.LICENSE").read_text()
        )
        text = (folder / f"{name}.min.js").read_text(encoding="utf-8")
        # What would end the script element, or change the text that its hash is of.
        assert not re.search(r"</script|<!--|\r", text)
        assert f"{name} " in (folder / "README.md").read_text()
