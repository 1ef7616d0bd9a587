"""Checks in a run: what fails stops what would waste money, and the web UI is told why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pugc_core.errors import CheckFailed
from pugc_core.plan import Chain
from pugc_core.recipe import Recipe, load
from pugc_core.stages import SHARDED, STAGES
from pugc_core.tables.staleness import survey
from pugc_core.tables.workspace import Workspace
from pugc_dagster import definitions
from pugc_dagster.project import data_root, recipe_folders
from pugc_dagster.runs import execute


def recipe() -> Recipe:
    return load("scripted", recipe_folders())


def change(project: Path, toml: str) -> None:
    file = project / "recipes" / "scripted.toml"
    file.write_text(file.read_text() + toml)


def ingest(instance: dg.DagsterInstance, *files: Path) -> None:
    execute.ingest(instance, execute.workspace(), [str(f) for f in files])


def said(instance: dg.DagsterInstance, stage: str) -> dict[str, Any]:
    found = {}
    graph = definitions.of([Chain(recipe(), Workspace(data_root()))]).resolve_asset_graph()
    of_stage = (spec for spec in graph.asset_check_keys if spec.asset_key == dg.AssetKey(["scripted", stage]))
    for name in (spec.name for spec in of_stage):
        records = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(["scripted", stage]), name), limit=1
        )
        event = records[0].event if records else None
        found[name] = event.asset_check_evaluation if event else None
    return found


def test_all_checks_of_all_stages_pass_in_a_sound_run(project: Path, posts: Callable[..., Path]) -> None:
    with execute.instance() as instance:
        ingest(instance, posts("a", 20), posts("b", 20))
        execute.run(instance, Chain(recipe(), execute.workspace()), to="dataset")
        for stage in (*SHARDED, "dataset"):
            found = said(instance, stage)
            assert {"schema", "counts", "unique_ids", "up_to_date"} <= found.keys()
            for name, evaluation in found.items():
                assert evaluation is not None, (stage, name)
                assert evaluation.passed, (stage, name, evaluation.description)


def test_a_judge_that_cannot_be_understood_stops_the_pairs(project: Path, posts: Callable[..., Path]) -> None:
    """The scripted judge ends in a score only where the prompt asks for [RESULT]."""
    (project / "recipes" / "judge.txt").write_text("What do you think of {response} to {instruction}, given {ugc}?")
    change(project, '[rewards]\nprompt = "judge.txt"\n')
    store = execute.workspace().store
    with execute.instance() as instance:
        ingest(instance, posts("a", 20))
        for _ in range(2):  # the second time the tables are there
            with pytest.raises(CheckFailed, match=r"parse_rate: 0.0% of the answers parsed, fewer than 50%.*a/"):
                execute.run(instance, Chain(recipe(), execute.workspace()))
            assert store.shards("scripted", "rewards") == ["a"]
            assert store.shards("scripted", "pairs") == []
        found = said(instance, "rewards")
        assert not found["parse_rate"].passed
        words = found["parse_rate"].description
        assert words.startswith("0.0% of the answers parsed, fewer than 50%; ")
        assert "have no valid vote in their first draws and were not asked about again: a/" in words
        assert not found["votes_complete"].passed
        assert found["counts"].passed


def test_a_new_judge_that_cannot_be_understood_leaves_the_old_pairs(project: Path, posts: Callable[..., Path]) -> None:
    store = execute.workspace().store
    with execute.instance() as instance:
        ingest(instance, posts("a", 20), posts("b", 20))
        execute.run(instance, Chain(recipe(), execute.workspace()), to="dataset")
        pairs = {shard: store.footer("scripted", "pairs", shard) for shard in ("a", "b")}
        (project / "recipes" / "judge.txt").write_text("What do you think of {response} to {instruction}, given {ugc}?")
        change(project, '[rewards]\nprompt = "judge.txt"\n')
        for _ in range(3):
            with pytest.raises(CheckFailed, match="parse_rate"):
                execute.refresh(instance, Chain(recipe(), execute.workspace()))
        # Not even the stage alone, as one may start it in the web UI.
        with pytest.raises(CheckFailed, match="rewards: parse_rate"):
            execute._execute(instance, Chain(recipe(), execute.workspace()), ["pairs"], {START: "a", END: "b"})
        assert {shard: store.footer("scripted", "pairs", shard) for shard in ("a", "b")} == pairs


def test_shards_in_different_states_make_no_data_set(project: Path, posts: Callable[..., Path]) -> None:
    """`pugc run --shard a` after the prompt was changed: the data set that is there stays, until the rest follows."""
    store, folder = execute.workspace().store, project / "data" / "datasets" / "scripted"
    (project / "recipes" / "judge.txt").write_text(
        "{response} to {instruction}, given {ugc}: say what you think, then [RESULT] and 1 to 5."
    )
    with execute.instance() as instance:
        ingest(instance, posts("a", 20), posts("b", 20), posts("c", 20))
        execute.run(instance, Chain(recipe(), execute.workspace()), to="dataset")
        before, written = store.footer("scripted", "dataset", "_all"), (folder / "train.parquet").read_bytes()
        assert said(instance, "dataset")["one_state"].passed
        change(project, '[rewards]\nprompt = "judge.txt"\n')
        with pytest.raises(CheckFailed, match="the rewards prompt differs: a against b, c") as caught:
            execute.run(instance, Chain(recipe(), execute.workspace()), ["a"], to="dataset")
        assert "pugc refresh --recipe scripted" in str(caught.value.fix)
        assert store.footer("scripted", "dataset", "_all") == before
        assert (folder / "train.parquet").read_bytes() == written
        found = said(instance, "dataset")["one_state"]
        assert (found.passed, found.severity, found.blocking) == (False, dg.AssetCheckSeverity.ERROR, True)
        assert "the rewards prompt differs: a against b, c" in found.description
        assert "pugc refresh --recipe scripted" in found.description

        execute.refresh(instance, Chain(recipe(), execute.workspace()))
        assert said(instance, "dataset")["one_state"].passed
        assert store.footer("scripted", "dataset", "_all") != before

        change(project, "n = 4\n[checks]\nmixed_shards = true\n")
        execute.run(instance, Chain(recipe(), execute.workspace()), ["b"], to="dataset")
        found = said(instance, "dataset")["one_state"]
        assert found.passed
        assert "the rewards number of votes differs: b against a, c" in found.description
        assert "- the rewards number of votes differs: b against a, c" in (folder / "README.md").read_text()


START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def test_metadata_that_people_look_at(project: Path, posts: Callable[..., Path]) -> None:
    change(project, "[models.tiny.price]\nprompt = 2.0\ncompletion = 6.0\n")
    with execute.instance() as instance:
        ingest(instance, posts("a", 20), posts("b", 20))
        execute.run(instance, Chain(recipe(), execute.workspace()), to="dataset")

        def shown(stage: str) -> dict[str, Any]:
            event = instance.get_latest_materialization_event(dg.AssetKey(["scripted", stage]))
            assert event is not None
            assert event.asset_materialization is not None
            return {name: value.value for name, value in event.asset_materialization.metadata.items()}

        rewards = shown("rewards")
        assert 0 < shown("responses")["run/similarity_mean"] < 1
        assert "without ties" in rewards["distribution"]
        tokens = rewards["run/prompt_tokens"], rewards["run/completion_tokens"]
        assert rewards["run/cost"] == pytest.approx((2 * tokens[0] + 6 * tokens[1]) / 1e6, abs=1e-6)
        assert rewards["run/shards"] == 2
        lineage = rewards["dagster/column_lineage"].deps_by_column["reward"]
        assert {dep.asset_key.path[-1] for dep in lineage} == {"ugc", "instructions", "responses"}
        assert shown("pairs")["three pairs"].count("chosen (") == 3
        assert "data:image/png;base64," in shown("dataset")["plots"]
        # Column lineage names columns that there are.
        for stage in STAGES.values():
            assert stage.sources.keys() <= stage.table.columns.keys()
            for sources in stage.sources.values():
                assert all(column in STAGES[table].table.columns for table, column in sources)


@pytest.mark.slow
def test_two_runs_over_one_shard_tear_no_table(project: Path, posts: Callable[..., Path]) -> None:
    with execute.instance() as instance:
        ingest(instance, posts("a", 30))
    command = [sys.executable, "-m", "pugc_dagster", "run", "--recipe", "scripted", "--to", "pairs"]
    runs = [subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [run.communicate(timeout=240)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    store = Workspace(str(project / "data")).store
    for stage in SHARDED:
        footer = store.footer("scripted", stage, "a")
        assert footer is not None
        assert store.read("scripted", stage, "a").height == footer.rows_in
    assert not list((project / "data").rglob("*.tmp"))
    found = said_stale(project)
    assert found == {}


def said_stale(project: Path) -> dict[str, Any]:
    from pugc_core.tables.staleness import survey

    workspace = Workspace(str(project / "data"))
    found = survey(Chain(recipe(), workspace))
    return {stage: found.outdated(stage) for stage in found.stages if found.outdated(stage)}


def test_random_references_are_drawn_over_the_shards_of_the_inbox(project: Path, posts: Callable[..., Path]) -> None:
    """A shard whose file was taken out lends none any more: those judged by its posts are made again."""
    change(project, '[rewards]\nreference = "random"\n')

    def outdated() -> dict[str, str]:
        workspace = execute.workspace()
        return survey(Chain(recipe(), workspace)).outdated("rewards")

    with execute.instance() as instance:
        ingest(instance, posts("a", 20), posts("b", 20))
        execute.run(instance, Chain(recipe(), execute.workspace()), to="rewards")
        assert outdated() == {}
        Path(execute.workspace().source("b")).unlink()
        assert outdated() == {"a": "posts came or went, and with them its random references"}
        execute.run(instance, Chain(recipe(), execute.workspace()), ["a"], to="rewards")
        assert outdated() == {}
