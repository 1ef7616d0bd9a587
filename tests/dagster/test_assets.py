"""The asset graph, and what a run of it leaves behind: tables, events with their metadata, notes of the calls."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pugc_core import storage
from pugc_core.errors import StorageError, TrainingError
from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_core.results import call_log
from pugc_core.results.summary import rows
from pugc_core.stages import SHARDED
from pugc_core.stages.quality import Quality
from pugc_core.tables.store import Store, Tables
from pugc_core.tables.workspace import Workspace
from pugc_dagster import definitions
from pugc_dagster.project import data_root, recipe_folders
from pugc_dagster.runs import execute, history
from pugc_dagster.stages import policy

CHAIN = ["ugc", "quality", "instructions", "relevance", "responses", "rewards", "pairs", "dataset"]


def keys(recipe: str, *stages: str) -> list[dg.AssetKey]:
    return [dg.AssetKey([recipe, *stage.split("/")]) for stage in stages]


def metadata_of(instance: dg.DagsterInstance, key: dg.AssetKey, shard: str | None = None) -> dict[str, Any]:
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[shard] if shard else None)
    record = instance.fetch_materializations(wanted, limit=1).records[0]
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def test_every_recipe_in_use_is_a_group_and_every_asset_says_what_it_is(project: Path) -> None:
    def groups() -> set[str]:
        graph = definitions.of(definitions.chains()).resolve_asset_graph()
        nodes = [graph.get(key) for key in graph.get_all_asset_keys()]
        assert all(node.description and node.description.endswith(".") for node in nodes)
        return {node.group_name for node in nodes}

    # The default and the user's own; a bundled one that nobody uses is not there, with its jobs and sensors.
    assert groups() == {"tiny", "scripted"}
    names = {job.name for job in definitions.defs().resolve_all_job_defs()}
    assert not [name for name in names if name.startswith(("small", "paper", "no_", "quality_", "tiny_no"))]
    (project / "data" / "tables" / "small" / "ugc").mkdir(parents=True)
    (project / "recipes" / "paper.toml").write_text('extends = "paper"\n')
    assert groups() == {"tiny", "scripted", "small", "paper"}


def test_a_broken_recipe_is_left_out_and_the_others_load(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    (project / "recipes" / "broken.toml").write_text('extends = "tiny"\n[quality]\nmin_scroe = 3\n')
    groups = {node.group_name for node in definitions.of(definitions.chains()).resolve_asset_graph().asset_nodes}
    assert "scripted" in groups
    assert "broken" not in groups
    assert "min_scroe" in caplog.text


def test_code_version_follows_the_fingerprint(project: Path) -> None:
    def versions() -> dict[str, str | None]:
        graph = definitions.of(definitions.chains()).resolve_asset_graph()
        return {key.path[1]: graph.get(key).code_version for key in keys("scripted", *CHAIN)}

    before = versions()
    file = project / "recipes" / "scripted.toml"
    file.write_text(file.read_text() + "[rewards]\nn = 4\n")
    after = versions()
    assert {name for name in before if before[name] != after[name]} == {"rewards"}


def run(names: tuple[str, ...] = (), to: str | None = "dataset", recipe: str = "scripted") -> None:
    with execute.instance() as instance:
        execute.run(instance, Chain(load(recipe, recipe_folders()), Workspace(data_root())), names, to)


def ingest(*files: Path) -> None:
    with execute.instance() as instance:
        execute.ingest(instance, Workspace(data_root()), [str(f) for f in files])


def test_shards_in_one_run_leave_tables_and_events_with_metadata(project: Path, posts: Callable[..., Path]) -> None:
    ingest(posts("a"), posts("b"), posts("c"))
    run()
    store = Workspace(data_root()).store
    for stage in SHARDED:
        assert store.shards("scripted", stage) == ["a", "b", "c"]
    with execute.instance() as instance:
        assert [r.status for r in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 2
        for stage in SHARDED:
            shown = metadata_of(instance, keys("scripted", stage)[0], "b")
            footer = store.footer("scripted", stage, "b")
            assert footer is not None
            assert shown["dagster/row_count"] == footer.rows_in
            assert shown["kept"] + shown["dropped"] == footer.rows_in
            assert shown["drop_reasons"] == dict(footer.dropped)
        judged = metadata_of(instance, keys("scripted", "rewards")[0], "b")
        assert judged["calls_made"] > 0
        assert judged["completion_tokens"] > 0
        dataset = metadata_of(instance, keys("scripted", "dataset")[0])
        assert dataset["shards"] == 3


def test_the_same_run_again_reuses_every_table(project: Path, posts: Callable[..., Path]) -> None:
    ingest(posts("a"), posts("b"))
    run()
    path = Workspace(data_root()).store.path("scripted", "rewards", "a")
    before = Path(path).stat().st_mtime_ns
    run()
    assert Path(path).stat().st_mtime_ns == before
    page = call_log.last(Workspace(data_root()).calls("scripted"))
    assert {stage: (c["made"], c["reused"]) for stage, c in page["stages"].items()} == {
        **dict.fromkeys(SHARDED, (0, 2)),
        "dataset": (0, 1),
    }


def test_one_shard_alone_goes_through_the_same_code(project: Path, posts: Callable[..., Path]) -> None:
    ingest(posts("a"), posts("b"), posts("c"))
    run(("b",), to="quality")
    assert Workspace(data_root()).store.shards("scripted", "quality") == ["b"]
    run(("a", "c"), to="ugc")  # two stretches of partitions, two Dagster runs
    assert Workspace(data_root()).store.shards("scripted", "ugc") == ["a", "b", "c"]


def checked(instance: dg.DagsterInstance, stage: str, name: str) -> tuple[bool, str]:
    """What a check said last."""
    key = dg.AssetCheckKey(keys("scripted", stage)[0], name)
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    result = record.event.asset_check_evaluation
    assert result is not None
    return result.passed, result.description or ""


def test_one_broken_file_holds_up_no_other_shard_and_is_red_in_one_place(
    project: Path, posts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(posts("a"), posts("b"), posts("c"))
    source = Path(Workspace(data_root()).source("b"))
    whole = source.read_bytes()
    source.write_bytes(b"")
    honest = Quality.build

    def odd(self: Quality, shard: str, inputs: Any) -> Any:
        if shard == "c":
            raise ZeroDivisionError("by zero")
        return (yield from honest(self, shard, inputs))

    with monkeypatch.context() as patch:
        patch.setattr(Quality, "build", odd)
        run()
    store = Workspace(data_root()).store
    for stage in SHARDED:
        assert store.shards("scripted", stage) == ["a", "b", "c"]
    assert set(rows(Tables(store, "scripted"), "dataset")["shard"]) == {"a"}
    with execute.instance() as instance:
        runs_ = instance.get_runs()
        assert [r.status for r in runs_] == [dg.DagsterRunStatus.SUCCESS] * 2  # the shards' and the data set's
        red = {stage: words for stage in SHARDED for ok, words in [checked(instance, stage, "every_shard")] if not ok}
        assert set(red) == {"ugc", "quality"}
        assert red["ugc"].startswith("1 of 3 shards could not be made: b: ")
        assert "fix: " in red["ugc"]
        assert red["quality"].startswith("1 of 3 shards could not be made: c: ZeroDivisionError: by zero")
        assert "empty" in metadata_of(instance, keys("scripted", "ugc")[0], "b")["failed"]
        assert "failed" not in metadata_of(instance, keys("scripted", "quality")[0], "b")
        assert metadata_of(instance, keys("scripted", "rewards")[0], "a")["run/shards"] == 3
        log = "".join(entry.user_message for run_ in runs_ for entry in instance.all_logs(run_.run_id))
        assert "in odd" in log  # the traceback
    source.write_bytes(whole)
    before = {stage: store.footer("scripted", stage, "a") for stage in SHARDED}
    run()
    assert set(rows(Tables(store, "scripted"), "dataset")["shard"]) == {"a", "b", "c"}
    assert {stage: store.footer("scripted", stage, "a") for stage in SHARDED} == before
    with execute.instance() as instance:
        assert checked(instance, "ugc", "every_shard") == (True, "3 shards are made")


def test_a_write_that_fails_leaves_the_shards_before_it_on_record(
    project: Path, posts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(posts("a"), posts("b"), posts("c"))
    write = Store.write

    def failing(self: Store, recipe: str, frame: Any, footer: Any) -> None:
        if footer.shard == "c":
            raise StorageError("the disk is full")
        write(self, recipe, frame, footer)

    monkeypatch.setattr(Store, "write", failing)
    with pytest.raises(StorageError, match="the disk is full"):
        run(to="ugc")
    with execute.instance() as instance:
        assert instance.get_materialized_partitions(keys("scripted", "ugc")[0]) == {"a", "b"}


def test_tables_of_different_age_are_not_joined(project: Path, posts: Callable[..., Path]) -> None:
    """ "Materialize" on one asset in the web UI, after something before it was made anew."""
    ingest(posts("a"))
    run(to="pairs")
    file = project / "recipes" / "scripted.toml"
    file.write_text(file.read_text().replace("[ugc]\n", "[ugc]\nmin_chars = 310\n"))
    run(to="ugc")
    with execute.instance() as instance:
        job = definitions.of(definitions.chains()).resolve_implicit_global_asset_job_def()
        with pytest.raises(StorageError, match="instructions of shard a was made from an older ugc"):
            job.execute_in_process(instance=instance, partition_key="a", asset_selection=keys("scripted", "rewards"))
    run(to="pairs")


def test_figures_of_several_stretches_add_up(project: Path, posts: Callable[..., Path]) -> None:
    ingest(posts("a"), posts("b", 5), posts("c", 6))
    run(("a", "c"), to="quality")  # two stretches of partitions, two Dagster runs, one command
    quality = call_log.last(Workspace(data_root()).calls("scripted"))["stages"]["quality"]
    assert (quality["made"], quality["shards"]) == (14, 2)
    with execute.instance() as instance:  # the asset's page shows the latest event, which is c's
        shown = metadata_of(instance, keys("scripted", "quality")[0])
    assert (shown["dagster/row_count"], shown["run/rows_in"], shown["run/shards"]) == (6, 14, 2)
    assert (shown["calls_made"], shown["run/calls_made"]) == (6, 14)


def test_a_shard_whose_file_is_removed_leaves_the_dataset(project: Path, posts: Callable[..., Path]) -> None:
    ingest(posts("a"), posts("b"))
    run()
    Path(Workspace(data_root()).source("b")).unlink()
    run()
    dataset = rows(Tables(Workspace(data_root()).store, "scripted"), "dataset")
    assert set(dataset["shard"]) == {"a"}


def test_a_policy_is_not_trained_on_an_object_store(
    project: Path, posts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUGC_DATA", "memory://elsewhere/policy")
    ingest(posts("a"))
    with pytest.raises(TrainingError, match="local folders"):
        run(to="policy")


def test_a_partition_of_one_shard_from_the_web_ui(project: Path, posts: Callable[..., Path]) -> None:
    """The web UI launches one partition with a partition key and not with a range."""
    ingest(posts("a"), posts("b"))
    with execute.instance() as instance:
        job = definitions.of(definitions.chains()).resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=instance, partition_key="a", asset_selection=keys("scripted", "ugc", "quality", "instructions")
        )
        assert result.success
        assert metadata_of(instance, keys("scripted", "quality")[0], "a")["dagster/row_count"] == 8
    assert Workspace(data_root()).store.shards("scripted", "instructions") == ["a"]


def test_a_stage_without_its_input_says_what_to_run(project: Path, posts: Callable[..., Path]) -> None:
    ingest(posts("a"))
    with execute.instance() as instance:
        job = definitions.of(definitions.chains()).resolve_implicit_global_asset_job_def()
        with pytest.raises(StorageError) as caught:
            job.execute_in_process(
                instance=instance, partition_key="a", asset_selection=keys("scripted", "instructions")
            )
    assert caught.value.fix == "pugc run --recipe scripted --shard a --to ugc"


def test_the_dataset_is_of_the_shards_that_are_there(project: Path, posts: Callable[..., Path]) -> None:
    ingest(posts("a"), posts("b"))
    run(("a",))
    with execute.instance() as instance:
        assert metadata_of(instance, keys("scripted", "dataset")[0])["shards"] == 1
    run()
    with execute.instance() as instance:
        assert metadata_of(instance, keys("scripted", "dataset")[0])["shards"] == 2


def test_runs_of_a_killed_command_are_marked_failed(project: Path) -> None:
    with execute.instance() as instance:
        job = definitions.of(definitions.chains()).resolve_implicit_global_asset_job_def()
        dead = instance.create_run_for_job(job, tags={history.PROCESS_TAG: f"{socket.gethostname()}:999999999"})
        other = instance.create_run_for_job(job, tags={history.PROCESS_TAG: "another-machine:1"})
        for run_ in (dead, other):
            instance.report_run_starting = None  # type: ignore[assignment]
            event = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=job.name)
            instance.report_dagster_event(event, run_.run_id)
    with execute.instance() as instance:
        states = {r.run_id: r.status for r in instance.get_runs()}
    assert states == {dead.run_id: dg.DagsterRunStatus.FAILURE, other.run_id: dg.DagsterRunStatus.STARTED}


def test_data_may_lie_on_another_file_system(
    project: Path, posts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUGC_DATA", "memory://elsewhere/pugc")
    ingest(posts("a"))
    run()
    assert not (project / "data").exists()
    assert storage.names("memory://elsewhere/pugc/tables/scripted/pairs") == ["a.parquet"]
    assert storage.exists("memory://elsewhere/pugc/datasets/scripted/train.parquet")


def test_people_are_spared_what_dagster_says_about_itself(project: Path) -> None:
    """Where we use what it calls beta or preview; what others use may still warn."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        definitions.defs().resolve_asset_graph()
        ours = policy._OneWriter().expected_writer_count
        assert [w.category for w in said if issubclass(w.category, dg.PreviewWarning | dg.BetaWarning)] == []
        assert ours == dg.PipesTempFileMessageReader().expected_writer_count
        dg.asset(backfill_policy=dg.BackfillPolicy.single_run())
        assert {dg.BetaWarning, dg.PreviewWarning} <= {w.category for w in said}  # nothing is silenced elsewhere
