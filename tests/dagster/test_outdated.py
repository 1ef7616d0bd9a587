"""What is out of date, in the web UI: the jobs that name it, make it again and mark it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from pugc_core.errors import RecipeError, SourceError
from pugc_core.plan import Chain
from pugc_core.recipe import Recipe, load
from pugc_core.tables.staleness import survey
from pugc_core.tables.store import Store
from pugc_dagster import definitions
from pugc_dagster import visible_recipes as recipes_shown
from pugc_dagster.cli import main
from pugc_dagster.partitions import shards
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute
from pugc_dagster.web import outdated as outdated_


def recipe() -> Recipe:
    return load("scripted", recipe_folders())


def outdated() -> dict[str, list[str]]:
    workspace = execute.workspace()
    found = survey(Chain(recipe(), workspace))
    return {stage: list(found.outdated(stage)) for stage in found.stages if found.outdated(stage)}


def failed(instance: dg.DagsterInstance, stage: str) -> set[str]:
    """The partitions that the web UI has as failed, and would backfill under "Failed"."""
    status = get_and_update_asset_status_cache_value(instance, dg.AssetKey(["scripted", stage]), shards)
    assert status is not None
    with partition_loading_context(dynamic_partitions_store=instance):
        return set(status.deserialize_failed_partition_subsets(shards).get_partition_keys())


@pytest.fixture
def stale(project: Path, begun: Callable[..., Path], posts: Callable[..., Path]) -> Path:
    """Three shards up to the data set; of two of them the rewards are then out of date."""

    def make() -> None:
        with execute.instance() as instance:
            execute.ingest(instance, execute.workspace(), [str(posts(name)) for name in ("a", "b", "c")])
            execute.run(instance, Chain(recipe(), execute.workspace()), to="dataset")
            (project / "recipes" / "judge.txt").write_text("{ugc} {instruction} {response} [RESULT] 1 to 5")
            file = project / "recipes" / "scripted.toml"
            file.write_text(file.read_text() + '[rewards]\nprompt = "judge.txt"\n')
            execute.run(instance, Chain(recipe(), execute.workspace()), ["b"], to="pairs")

    begun("two of three out of date", make)
    assert outdated() == {"rewards": ["a", "c"], "pairs": ["a", "c"], "dataset": ["_all"]}
    return project


def job(name: str) -> Any:
    return definitions.defs().resolve_job_def(name)


def shown(name: str) -> dict[str, Any]:
    """The configuration that the launch page of a job opens with."""
    node = job(name).nodes[0]
    return dict(node.definition.config_schema.default_value)


def test_launch_pages_name_what_is_out_of_date(stale: Path) -> None:
    why = "rewards: the rewards prompt changed"
    assert shown("scripted_refresh") == {"shards": {"a": why, "c": why}}
    sentence = "2 of 3 shards out of date: the rewards prompt changed"
    assert shown("scripted_mark_stale") == {"stages": {"rewards": sentence, "pairs": sentence}}
    assert "Shards: a, c" in job("scripted_refresh").description
    assert shown("tiny_refresh") == {"shards": {}}


def test_storage_that_is_away_hides_nothing_else(
    stale: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> Any:
        raise OSError("the bucket does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "shards", away)
        patch.setattr(recipes_shown.storage, "exists", away)
        assert outdated_.look([Chain(recipe(), execute.workspace())]) == {}
        found, broken = definitions.load_all()
        assert {r.name for r in found} == {"tiny", "scripted"}
        assert broken == {}
    assert caplog.text.count("the bucket does not answer") >= 2
    assert set(outdated_.look([Chain(recipe(), execute.workspace())])) == {"scripted"}


def test_only_the_shards_left_on_the_launch_page_are_made_again(stale: Path) -> None:
    def config(*names: str) -> dict[str, Any]:
        return {"ops": {"scripted_make_again": {"config": {"shards": dict.fromkeys(names, "")}}}}

    with execute.instance() as instance:
        refresh = job("scripted_refresh")
        assert refresh.execute_in_process(run_config=config("c"), instance=instance).success
        # The data set waits for the shard that is left.
        assert outdated() == {"rewards": ["a"], "pairs": ["a"], "dataset": ["_all"]}
        with pytest.raises(SourceError, match="no shard gone"):
            refresh.execute_in_process(run_config=config("gone"), instance=instance)
        assert refresh.execute_in_process(run_config=config("a", "c"), instance=instance).success
        assert outdated() == {}


def test_marked_shards_are_what_a_backfill_of_failed_ones_picks(stale: Path) -> None:
    with execute.instance() as instance:
        mark = job("scripted_mark_stale")
        assert [failed(instance, stage) for stage in ("responses", "rewards", "pairs")] == [set(), set(), set()]
        result = mark.execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
        words = result.failure_data_for_node("scripted_mark").user_failure_data.description
        assert "2 shards of rewards, 2 shards of pairs" in words
        assert [failed(instance, stage) for stage in ("responses", "rewards", "pairs")] == [
            set(),
            {"a", "c"},
            {"a", "c"},
        ]
        # Made again they are marked no more, one by one; and so is a shard that turns out to be current.
        execute.refresh(instance, Chain(recipe(), execute.workspace()), ["a"])
        assert failed(instance, "rewards") == failed(instance, "pairs") == {"c"}
        execute.run(instance, Chain(recipe(), execute.workspace()), to="pairs")
        assert failed(instance, "rewards") == failed(instance, "pairs") == set()
        assert mark.execute_in_process(instance=instance).success, "with nothing out of date there is nothing to mark"
        config = {"ops": {"scripted_mark": {"config": {"stages": {"dataset": ""}}}}}
        with pytest.raises(RecipeError, match="no stage dataset"):
            mark.execute_in_process(run_config=config, instance=instance)


def test_the_terminal_names_the_shards(stale: Path) -> None:
    output = CliRunner().invoke(main, ["stale", "--shards", "--recipe", "scripted"]).output
    assert "rewards, the rewards prompt changed: a, c" in output
    found = CliRunner().invoke(main, ["refresh", "--shard", "a", "--recipe", "scripted", "--json"])
    assert json.loads(found.stdout)["shards"] == 3
    assert outdated()["rewards"] == ["c"]
