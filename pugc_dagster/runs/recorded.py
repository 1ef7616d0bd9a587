"""A run in this process, recorded as if the web UI had started it.

Dagster's `execute_in_process` leaves out which code location a run belongs to, and the page *Overview* shows no run
without one. Reaches into Dagster's private parts; Dagster is pinned below 1.14, and `tests/dagster/test_recorded.py`
fails when this no longer works.
"""

from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

MODULE, LOCATION = "pugc_dagster.definitions", "pugc"
"""As workspace.yaml has them."""
_REPOSITORY = "__repository__"
"""Dagster's name for the definitions of a module."""


def execute(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    assets: Collection[dg.AssetKey],
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
) -> None:
    """Execute a job, or the chosen assets of it, to its end. Raises what its steps raise."""
    target = LoadableTargetOrigin(module_name=MODULE)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION)
    run = instance.create_run_for_job(
        job,
        run_config=run_config,
        tags={**job.run_tags, **tags},
        asset_selection=frozenset(assets) or None,
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, _REPOSITORY), job.name),
    )
    execute_run(InMemoryJob(job), run, instance, raise_on_error=True)
