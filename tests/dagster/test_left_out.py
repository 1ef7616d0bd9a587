"""A recipe without filters, through Dagster: the graph, a run, and all that shows or looks at what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from click.testing import CliRunner, Result

from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.tables.store import Tables
from pugc_dagster import definitions, reports
from pugc_dagster.cli import main
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute
from pugc_dagster.stages import metadata
from pugc_dagster.web import automation, outdated

FILTERS = {"quality", "relevance"}


def pugc(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(w) for w in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def bare() -> Chain:
    return Chain(load("bare", recipe_folders()), execute.workspace())


def test_a_chain_without_filters(project: Path, posts: Callable[..., Path]) -> None:
    text = 'extends = "scripted"\n[quality]\nskip = true\n[relevance]\nskip = true\n[rewards]\nreference = "none"\n'
    (project / "recipes" / "bare.toml").write_text(text + 'prompt = "no-reference-short"\n')
    graph = definitions.of([bare()]).resolve_asset_graph()
    names = {key.path[-1] for key in graph.get_all_asset_keys()}
    assert not names & FILTERS
    (parent,) = graph.get(dg.AssetKey(["bare", "instructions"])).parent_keys
    assert parent == dg.AssetKey(["scripted", "ugc"]), "shared with the recipe that it extends"
    assert graph.get(dg.AssetKey(["bare", "rewards"])).parent_keys == {
        dg.AssetKey(["bare", "responses"]),
        dg.AssetKey(["bare", "instructions"]),
    }
    deps = metadata.column_lineage(bare(), "rewards")["dagster/column_lineage"].deps_by_column["votes"]
    assert {dep.asset_key.path[-1] for dep in deps} == {"instructions", "responses"}
    deps = metadata.column_lineage(bare(), "instructions")["dagster/column_lineage"].deps_by_column["ugc_id"]
    assert [dep.asset_key.path for dep in deps] == [["scripted", "ugc"]]

    pugc("ingest", posts("a"), posts("b"))
    assert set(automation.new_shards(bare())) == {"a", "b"}
    status = json.loads(pugc("run", "--recipe", "bare", "--to", "dataset", "--json").output)
    assert not status["stages"].keys() & FILTERS
    assert not status["roles"].keys() & {"quality_judge", "relevance_judge"}
    assert automation.new_shards(bare()) == {}
    pair = Tables(bare().workspace.store, "bare").read("pairs", "a").filter("keep")["pair_id"][0]
    shown = pugc("show", "pair", pair, "--recipe", "bare").output
    assert "quality" not in shown
    assert json.loads(pugc("show", "pair", pair, "--recipe", "bare", "--json").output)["quality"] is None
    pugc("run", "--recipe", "bare", "--to", "dataset")  # which everything is there for
    page = reports.write(bare())
    assert "quality " not in Path(page).read_text().split("What is behind them")[1].split("What was left out")[0]

    (project / "recipes" / "bare.toml").write_text(text + 'prompt = "no-reference"\n')
    assert '"rewards"' in pugc("stale", "--recipe", "bare", "--json").output
    assert "the rewards prompt changed: a, b" in pugc("stale", "--recipe", "bare", "--shards").output
    found = outdated.look([bare()])["bare"]
    assert outdated.refresh(bare(), found).description
    assert outdated.mark(bare(), found).description
    pugc("refresh", "--recipe", "bare")
    assert not outdated.look([bare()])["bare"].outdated("dataset")
    for words in (["run", "--to", "quality"], ["export", "x.jsonl", "--what", "relevance"]):
        assert "leaves the stage" in pugc(words[0], "--recipe", "bare", *words[1:], code=1).output
