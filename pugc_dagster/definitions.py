"""All assets of all recipes. Loading this imports no torch, and asks no network."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from pugc_core import default, storage
from pugc_core.adopt import adopt
from pugc_core.errors import PugcError, RecipeError
from pugc_core.plan import Chain
from pugc_core.recipe import bundled, load
from pugc_core.staleness import Survey
from pugc_core.workspace import Workspace
from pugc_dagster import automation, outdated
from pugc_dagster.io import ShardTables
from pugc_dagster.keys import key
from pugc_dagster.project import data_root, recipe_folders
from pugc_dagster.resources import EnginesResource, LedgerResource, WorkspaceResource
from pugc_dagster.stages import comparison, dataset, policy, report
from pugc_dagster.stages.base import stage_asset

log = logging.getLogger("pugc")


def chains() -> list[Chain]:
    """The chains of the recipes that the web UI shows: the user's own, the default, and the bundled ones that have
    tables; those of them that can be loaded."""
    return _load_all()[0]


def _load_all() -> tuple[list[Chain], dict[str, PugcError]]:
    """The chains, and by name what is wrong with recipes that cannot be loaded."""
    workspace = Workspace(data_root())
    folders = recipe_folders()
    own = sorted(path for folder in folders for path in folder.glob("*.toml"))
    loaded: dict[str, Chain] = {}
    broken: dict[str, PugcError] = {}
    # A user's recipe may replace a bundled one of the same name.
    others = [name for name in bundled() if name not in {path.stem for path in own} and _used(name)]
    for name in (*map(str, own), *others):
        try:
            chain = Chain(load(name, folders), workspace)
            automation.nightly(chain)
            _adopt(chain)
            if chain.name in loaded:
                raise RecipeError(f"another recipe is called {chain.name!r} too", fix='give it another `name = "..."`')
        except PugcError as err:
            log.error("recipe %s is left out: %s", name, err)
            broken[Path(name).stem] = err
            continue
        loaded[chain.name] = chain
    for chain in list(loaded.values()):
        with contextlib.suppress(PugcError):  # the comparison says what is wrong when it is materialized
            for other in chain.compared:
                loaded.setdefault(other.name, other)  # a bundled one that is not used yet
    return list(loaded.values()), broken


def _adopt(chain: Chain) -> None:
    try:
        adopt(chain)
    except Exception as err:  # storage that is away for a while
        log.warning("recipe %s: tables of an older version stay where they are: %s", chain.name, err)


def _used(bundled: str) -> bool:
    """Whether a bundled recipe is shown: four chains in the graph, three of them never run, only confuse."""
    try:
        return bundled == default.look().recipe or storage.exists(
            storage.join(Workspace(data_root()).store.root, bundled)
        )
    except Exception as err:  # storage that is away for a while
        log.warning("whether recipe %s has tables is not known: %s", bundled, err)
        return False


def _notice(name: str, err: PugcError) -> dg.AssetSpec:
    """What the web UI shows in the place of a recipe that cannot be loaded."""
    group = re.sub(r"\W", "_", name)
    fix = f"\n\n{err.fix}" if err.fix else ""
    words = f"**This recipe cannot be loaded.**\n\n{err.problem}{fix}\n\nThen reload the definitions."
    return dg.AssetSpec([group, "cannot_be_loaded"], description=words, group_name=group, kinds={"toml"})


def assets_of(chosen: Sequence[Chain]) -> list[dg.AssetsDefinition]:
    """The assets of these chains, each once: what recipes share belongs to the one whose it is."""
    made: dict[dg.AssetKey, dg.AssetsDefinition] = {}
    for chain in (each for one in chosen for each in (*one.sources.values(), one)):
        for name in chain.nodes:
            if (asset := key(chain, name)) not in made:
                made[asset] = _asset(chain.owner(name), name)
        if chain in chosen:
            made[key(chain, "report")] = report.asset(chain)
            if chain.recipe.compare.with_:
                made[key(chain, "comparison")] = comparison.asset(chain)
    return list(made.values())


def _asset(owner: Chain, name: str) -> dg.AssetsDefinition:
    if name not in owner.stages:
        return policy.asset(owner, name)
    return (stage_asset if owner.stages[name].sharded else dataset.asset)(owner, name)


def of(
    chosen: Sequence[Chain],
    broken: Mapping[str, PugcError] | None = None,
    found: Mapping[str, Survey] | None = None,
) -> dg.Definitions:
    """The definitions of these recipes, with a notice for each of the broken; `found` is what is out of date."""
    workspace = WorkspaceResource()
    return dg.Definitions(
        assets=[
            *assets_of(chosen),
            *(_notice(name, err) for name, err in (broken or {}).items()),
        ],
        resources={
            "workspace": workspace,
            "ledger": LedgerResource(workspace=workspace),
            "engines": EnginesResource(),
            "tables": ShardTables(workspace=workspace),
        },
        # One process per run: light stages cost nothing, and models have processes of their own.
        executor=dg.in_process_executor,
        **automation.of(chosen, found),
    )


@dg.definitions
def defs() -> dg.Definitions:
    loaded, broken = _load_all()
    return of(loaded, broken, outdated.look(loaded))
