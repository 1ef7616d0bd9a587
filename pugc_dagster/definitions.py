"""All assets of all recipes. Loading this imports no torch, and asks no network."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import dagster as dg

from pugc_core.errors import PugcError
from pugc_core.plan import Chain
from pugc_core.tables.staleness import Survey
from pugc_dagster.io import ShardTables
from pugc_dagster.keys import key
from pugc_dagster.resources import EnginesResource, LedgerResource, WorkspaceResource
from pugc_dagster.stages import comparison, dataset, policy, report
from pugc_dagster.stages.base import stage_asset
from pugc_dagster.visible_recipes import load_all
from pugc_dagster.web import automation, outdated

log = logging.getLogger("pugc")


def chains() -> list[Chain]:
    """The chains of the recipes that the web UI shows: the user's own, the default, and the bundled ones that have
    tables; those of them that can be loaded."""
    return load_all(automation.nightly)[0]


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
    loaded, broken = load_all(automation.nightly)
    return of(loaded, broken, outdated.look(loaded))
