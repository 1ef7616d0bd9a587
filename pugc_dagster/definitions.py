"""All assets of all recipes. Loading this imports no torch, and asks no network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

import dagster as dg

from pugc_core.errors import PugcError
from pugc_core.recipe import Recipe, bundled, load
from pugc_core.workspace import Workspace
from pugc_dagster.io import ShardTables
from pugc_dagster.project import data_root, recipe_folders
from pugc_dagster.resources import EnginesResource, LedgerResource, WorkspaceResource
from pugc_dagster.stages import (
    dataset,
    instructions,
    pairs,
    policy,
    quality,
    relevance,
    report,
    responses,
    rewards,
    ugc,
)

STAGES: Sequence[ModuleType] = (
    ugc,
    quality,
    instructions,
    relevance,
    responses,
    rewards,
    pairs,
    dataset,
    policy,
    report,
)
"""In run order. The one place where a stage is entered."""

log = logging.getLogger("pugc")


def recipes() -> list[Recipe]:
    """The bundled recipes and the user's own. One that cannot be loaded is left out, and said so."""
    folders = recipe_folders()
    own = sorted(path for folder in folders for path in folder.glob("*.toml"))
    loaded: dict[str, Recipe] = {}
    # A user's recipe may replace a bundled one of the same name.
    for name in (*map(str, own), *(n for n in bundled() if n not in {path.stem for path in own})):
        try:
            recipe = load(name, folders)
            assets_of(recipe)
        except PugcError as err:
            log.error("recipe %s is left out: %s", name, err)
            continue
        if recipe.name in loaded:
            log.error("recipe %s is left out: the name %r is taken", name, recipe.name)
            continue
        loaded[recipe.name] = recipe
    return list(loaded.values())


def assets_of(recipe: Recipe) -> list[dg.AssetsDefinition]:
    """The chain of one recipe, as a group."""
    stages = recipe.stages(Workspace(data_root()).source)
    return [asset for module in STAGES for asset in module.assets(recipe, stages)]


def of(chosen: Sequence[Recipe]) -> dg.Definitions:
    """The definitions of these recipes."""
    workspace = WorkspaceResource()
    return dg.Definitions(
        assets=[asset for recipe in chosen for asset in assets_of(recipe)],
        resources={
            "workspace": workspace,
            "ledger": LedgerResource(workspace=workspace),
            "engines": EnginesResource(),
            "tables": ShardTables(workspace=workspace),
        },
        # One process per run: light stages cost nothing, and models have processes of their own.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    return of(recipes())
