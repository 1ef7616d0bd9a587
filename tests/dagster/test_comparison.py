"""A comparison of recipes in the web UI, the terminal and the report: one and the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.results import comparison
from pugc_core.tables.workspace import Workspace
from pugc_dagster import definitions, reports
from pugc_dagster.cli import main
from pugc_dagster.project import data_root, recipe_folders
from pugc_dagster.runs import execute, finished

ASSET = dg.AssetKey(["scripted", "comparison"])
FORK = 'extends = "scripted"\n[rewards]\nprompt = "default"\n'


def pugc(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def chain(name: str) -> Chain:
    return Chain(load(name, recipe_folders()), Workspace(data_root()))


def materialize() -> dict[str, Any]:
    """The comparison, by itself as a click in the web UI makes it; what its event shows."""
    with execute.instance() as instance:
        job = definitions.of(definitions.chains()).resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance, asset_selection=[ASSET])
        record = instance.fetch_materializations(ASSET, limit=1).records[0]
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


@pytest.fixture
def two(project: Path, begun: Callable[..., Path], posts: Callable[..., Path]) -> Path:
    """A project with the pairs of a recipe and of a fork of it with another reward prompt."""

    def make() -> None:
        file = project / "recipes" / "scripted.toml"
        file.write_text(file.read_text() + '[compare]\nwith = ["judged-otherwise"]\n')
        (project / "recipes" / "judged-otherwise.toml").write_text(FORK)
        pugc("ingest", str(posts("a", 12)), str(posts("b", 12)))
        for recipe in ("scripted", "judged-otherwise"):
            pugc("run", "--recipe", recipe, "--to", "dataset")

    return begun("two recipes", make)


def test_the_web_ui_the_terminal_and_the_report_show_the_same(two: Path) -> None:
    shown = materialize()
    found = comparison.of([chain("scripted"), chain("judged-otherwise")])
    printed = json.loads(pugc("compare", "scripted", "judged-otherwise", "--json").output)
    assert printed == found.plain() == shown["figures"]
    assert printed["reference"] == "scripted"
    own = printed["recipes"]["judged-otherwise"]
    assert own["against"]["pairs_in_common"] == own["against"]["flipped"]["n"] > 0
    assert shown["judged-otherwise/flipped"] == own["against"]["flipped"]["value"]
    assert shown["scripted/pairs"] == printed["recipes"]["scripted"]["own"]["pairs"]
    assert shown["plot"].startswith("![margins, lengths, flipped](data:image/png;base64,")
    page = Path(reports.write(chain("scripted"))).read_text(encoding="utf-8")
    assert "<h2>Comparison</h2>" in page
    assert "<h2>Comparison</h2>" not in Path(reports.write(chain("judged-otherwise"))).read_text(encoding="utf-8")
    assert reports.outside(page) == []
    terminal = pugc("compare", "scripted", "judged-otherwise").output
    assert "compared with scripted; 95% intervals" in terminal
    for label, *cells in found.rows():
        assert f"<td>{label}</td>" in page
        assert f"| {label} | {' | '.join(cells)} |" in shown["comparison"]
        assert all(cell.split(" (")[0] in terminal for cell in cells)


def test_a_comparison_looks_anew_each_time(two: Path) -> None:
    before = materialize()
    assert "notes" not in before
    other = chain("judged-otherwise")
    Path(other.tables.path("pairs", "b")).unlink()
    shown = materialize()
    assert shown["judged-otherwise/pairs"] < before["judged-otherwise/pairs"]
    assert "pairs of judged-otherwise: 1 shards not made yet" in shown["notes"]


def test_its_inputs_are_the_pairs_of_all_each_once(project: Path) -> None:
    recipes = project / "recipes"
    (recipes / "fork.toml").write_text(FORK)
    (recipes / "shorter.toml").write_text(
        'extends = "scripted"\n[training]\nseed = 3\n[compare]\nwith = ["scripted"]\n'
    )
    file = recipes / "scripted.toml"
    file.write_text(file.read_text() + '[compare]\nwith = ["fork", "shorter", "small"]\n')

    def parents(group: str) -> set[str]:
        graph = definitions.of(definitions.chains()).resolve_asset_graph()
        assert graph.get(dg.AssetKey(["small", "pairs"])).group_name == "small", "what is compared is shown"
        node = graph.get(dg.AssetKey([group, "comparison"]))
        assert node.group_name == group
        return {"/".join(key.path) for key in node.parent_keys}

    assert parents("scripted") == {"scripted/pairs", "fork/pairs", "small/pairs"}
    assert parents("shorter") == {"scripted/pairs"}
    assert not [
        k for k in definitions.defs().resolve_asset_graph().get_all_asset_keys() if k.path == ["fork", "comparison"]
    ]


def test_a_recipe_stands_although_one_that_it_is_compared_with_is_broken(two: Path) -> None:
    (two / "recipes" / "judged-otherwise.toml").write_text(FORK + "n = 0\n")
    graph = definitions.defs().resolve_asset_graph()
    said = graph.get(ASSET).description or ""
    assert "It cannot be made: " in said
    assert "rewards.n" in said
    assert dg.AssetKey(["scripted", "pairs"]) in graph.get_all_asset_keys()
    page = Path(reports.write(chain("scripted"))).read_text(encoding="utf-8")
    assert "rewards.n" in page.split("<h2>Comparison</h2>")[1][:600]


def test_new_pairs_of_one_leave_the_report_of_the_other_to_be_written(two: Path) -> None:
    before = finished._state(chain("scripted"))
    assert finished._state(chain("scripted")) == before
    Path(chain("judged-otherwise").tables.path("pairs", "b")).unlink()
    assert finished._state(chain("scripted")) != before


def test_what_cannot_be_compared_is_said_with_the_command(two: Path) -> None:
    (two / "recipes" / "later.toml").write_text(FORK + "n = 2\n")
    wrong = {
        ("scripted",): (2, "name at least two recipes"),
        ("scripted", "scripted"): (1, "recipe scripted is named twice"),
        ("scripted", "laetr"): (1, "did you mean later?"),
        ("scripted", "later"): (1, "pugc run --recipe later --to pairs"),
    }
    for words, (code, said) in wrong.items():
        assert said in pugc("compare", *words, code=code).output, words
    page = Path(reports.write(chain("scripted"))).read_text(encoding="utf-8")
    assert "cannot be compared" not in page
    file = two / "recipes" / "scripted.toml"
    file.write_text(file.read_text().replace('"judged-otherwise"', '"later"'))
    page = Path(reports.write(chain("scripted"))).read_text(encoding="utf-8")
    assert "recipe later cannot be compared: no pairs yet; fix: pugc run --recipe later --to pairs" in page
