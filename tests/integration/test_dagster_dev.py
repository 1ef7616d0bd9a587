"""`dagster dev` as a person starts it: in the project's folder, with DAGSTER_HOME unset. What it makes stays."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.dev import dagster_dev

from pugc_core.tables.workspace import Workspace

BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATUS = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"


@pytest.mark.slow
def test_a_backfill_from_the_web_ui_is_a_few_runs_and_stays(project: Path, posts: Callable[..., Path]) -> None:
    from pugc_dagster.runs import execute

    names = ["a", "b", "c", "d"]
    with execute.instance() as instance:
        execute.ingest(instance, Workspace(str(project / "data")), [str(posts(n)) for n in names])
    stages = ("ugc", "quality", "instructions", "relevance", "responses", "rewards", "pairs")
    with dagster_dev(project) as ask:
        launched = ask(
            BACKFILL,
            p={
                "assetSelection": [{"path": ["scripted", stage]} for stage in stages],
                "partitionNames": names,
                "fromFailure": False,
            },
        )["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        deadline = time.time() + 240
        while True:
            status = ask(STATUS, id=launched["backfillId"])["partitionBackfillOrError"]["status"]
            if status not in ("REQUESTED", "CANCELING", "COMPLETING"):
                break
            assert time.time() < deadline, status
            time.sleep(1)
        assert status == "COMPLETED_SUCCESS"
        made = ask(RUNS)["runsOrError"]["results"]
        assert len(made) == 1  # four shards and seven stages, one run
        assert made[0]["status"] == "SUCCESS"
    assert Workspace(str(project / "data")).store.shards("scripted", "pairs") == names
    # The web UI is gone; what it recorded is not.
    with execute.instance() as instance:
        assert [r.run_id for r in instance.get_runs()] == [made[0]["runId"]]


SENSOR = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "pugc",
    "sensorName": "scripted_new_content",
}
START = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"


@pytest.mark.slow
def test_a_killed_daemon_goes_on_where_it_stopped(project: Path, posts: Callable[..., Path]) -> None:
    """A real daemon, kill -9 between a file's arrival and its pairs, and another daemon after it."""
    inbox = project / "data" / "inbox"
    inbox.mkdir(parents=True)
    store = Workspace(str(project / "data")).store
    with dagster_dev(project, stop=signal.SIGKILL) as ask:
        assert ask(START, s=SENSOR)["startSensor"]["__typename"] == "Sensor"
        (inbox / "a.jsonl").write_bytes(posts("a").read_bytes())
        time.sleep(20)  # somewhere between its first look and its run
    (inbox / "b.jsonl").write_bytes(posts("b").read_bytes())
    with dagster_dev(project) as ask:
        deadline = time.time() + 240
        while store.shards("scripted", "pairs") != ["a", "b"]:
            assert time.time() < deadline, (project / "dev.log").read_text()[-3000:]
            time.sleep(1)
        time.sleep(35)  # two more ticks: nothing is left to do
        runs = ask(RUNS)["runsOrError"]["results"]
    assert len([run for run in runs if run["status"] == "SUCCESS"]) <= 3
    assert store.shards("scripted", "pairs") == ["a", "b"]
