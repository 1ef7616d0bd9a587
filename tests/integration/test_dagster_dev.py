"""`dagster dev` as a person starts it: in the project's folder, with DAGSTER_HOME unset. What it makes stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pugc_core.workspace import Workspace

BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATUS = "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def dagster_dev(project: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Gives a function that asks GraphQL."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "PUGC_DATA", "PUGC_RECIPES")}
    log = (project / "dev.log").open("wb")
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("dagster")), "dev", "-p", str(port)],
        cwd=project,
        env=env,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    def ask(query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        data: dict[str, Any] = found["data"]
        return data

    try:
        deadline = time.time() + 120
        while True:
            try:
                ask("{ version }")
                break
            except OSError:
                assert process.poll() is None, (project / "dev.log").read_text()
                assert time.time() < deadline, (project / "dev.log").read_text()
                time.sleep(0.5)
        yield ask
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@pytest.mark.slow
def test_a_backfill_from_the_web_ui_is_a_few_runs_and_stays(project: Path, posts: Callable[..., Path]) -> None:
    from pugc_dagster import execute

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
