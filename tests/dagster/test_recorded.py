"""Runs of the terminal stand in the web UI like its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from pugc_core.plan import Chain
from pugc_core.recipe import load
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute, recorded


def test_a_run_of_the_terminal_belongs_to_the_code_location(project: Path, posts: Callable[..., Path]) -> None:
    """The page Overview shows no other run."""
    with execute.instance() as instance:
        execute.ingest(instance, execute.workspace(), [str(posts("a"))])
        execute.run(instance, Chain(load("scripted", recipe_folders()), execute.workspace()), to="ugc")
        run = instance.get_runs()[0]
        origin = run.remote_job_origin
        assert origin is not None
        assert (origin.job_name, origin.repository_origin.repository_name) == (run.job_name, "__repository__")
        where = yaml.safe_load((project / "workspace.yaml").read_text())["load_from"][0]["python_module"]
        assert (where["module_name"], where["location_name"]) == (recorded.MODULE, origin.location_name)
