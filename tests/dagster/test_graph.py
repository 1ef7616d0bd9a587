"""A snapshot of everything that the web UI shows of a new project: a change in it is a change that users see.

After a change that is meant: `PUGC_SNAPSHOT=write pytest tests/dagster/test_graph.py`, and read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from pugc_dagster import definitions

SNAPSHOT = Path(__file__).with_name("graph.txt")


def lines(found: dg.Definitions) -> Iterator[str]:
    """One block per asset, job, sensor and schedule, in the order of their names."""
    repository = found.get_repository_def()
    graph = repository.asset_graph
    for key in sorted(graph.get_all_asset_keys()):
        node: Any = graph.get(key)
        yield f"asset {key.to_user_string()}"
        yield from _fields(
            group=[node.group_name],
            after=(parent.to_user_string() for parent in node.parent_keys),
            partitions=[node.partitions_def.name] if node.partitions_def else [],
            backfill=[_policy(node.backfill_policy)] if node.backfill_policy else [],
            pools=node.pools or (),
            kinds=node.kinds or (),
            checks=(_check(graph.get(check)) for check in node.check_keys),
        )
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if job.name != "__ASSET_JOB":
            yield f"job {job.name}"
            nodes = job.asset_layer.selected_asset_keys
            yield from _fields(assets=(key.to_user_string() for key in nodes), ops=job.graph.node_dict)
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        jobs = [target.job_name for target in sensor.targets]
        yield f"sensor {sensor.name}"
        yield from _fields(jobs=jobs, status=[sensor.default_status.value], every=[sensor.minimum_interval_seconds])
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        yield f"schedule {schedule.name}"
        when = f"{schedule.cron_schedule} {schedule.execution_timezone}"
        yield from _fields(jobs=[schedule.job_name], status=[schedule.default_status.value], cron=[when])


def _fields(**fields: Iterable[object]) -> Iterator[str]:
    for name, values in fields.items():
        if shown := sorted(map(str, values)):
            yield f"    {name}: {', '.join(shown)}"


def _policy(policy: dg.BackfillPolicy) -> str:
    return f"{policy.policy_type.value.lower()} {policy.max_partitions_per_run}"


def _check(node: Any) -> str:
    return f"{node.key.name}{' (blocks)' if node.blocking else ''}"


def test_a_new_projects_graph_is_what_it_was(project: Path) -> None:
    for own in (project / "recipes").glob("*.toml"):
        own.unlink()
    now = "\n".join(lines(definitions.of(definitions.chains()))) + "\n"
    if os.environ.get("PUGC_SNAPSHOT") == "write":
        SNAPSHOT.write_text(now, encoding="utf-8")
    assert now == SNAPSHOT.read_text(encoding="utf-8")
