"""The report of a recipe: one HTML file that opens offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pugc_core import runs, storage, summary
from pugc_core.recipe import Recipe
from pugc_core.workspace import Workspace


def write(recipe: Recipe, workspace: Workspace) -> str:
    """Write the report and return its path."""
    environment = Environment(loader=PackageLoader("pugc_dagster"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html").render(**_content(recipe, workspace))
    path = workspace.report(recipe.name)
    storage.write(path, page.encode())
    return path


def _content(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    store = workspace.store
    inbox = workspace.shards()
    shards = [shard for shard in store.shards(recipe.name, "ugc") if shard in inbox]
    dataset = summary.rows(store, recipe.name, "dataset")
    best = dataset.filter(keep=True).sort("margin", "pair_id", descending=[True, False]).head(5)
    policies = {
        objective: _training(Path(workspace.policy(recipe.name, objective)) / "training.json")
        for objective in recipe.training.objectives
    }
    return {
        "recipe": recipe,
        "shards": shards,
        "funnel": summary.funnel(store, recipe.name, shards),
        "rewards": summary.reward_shape(summary.measured(store, recipe.name, "rewards", shards)),
        "calls": runs.last(workspace.calls(recipe.name)).get("stages", {}),
        "pairs": best.to_dicts(),
        "policies": {name: record for name, record in policies.items() if record},
    }


def _training(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
