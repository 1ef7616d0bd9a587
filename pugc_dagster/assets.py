"""The assets of recipes, and the resources that they need."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from pugc_core.plan import Chain
from pugc_dagster.io import ShardTables
from pugc_dagster.keys import key
from pugc_dagster.resources import EnginesResource, LedgerResource, WorkspaceResource
from pugc_dagster.stages import comparison, dataset, policy, report
from pugc_dagster.stages.base import stage_asset


def of(chosen: Sequence[Chain]) -> list[dg.AssetsDefinition]:
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


def resources() -> dict[str, dg.ConfigurableResource | dg.ConfigurableIOManager]:  # type: ignore[type-arg]
    """What the assets ask for by name."""
    workspace = WorkspaceResource()
    return {
        "workspace": workspace,
        "ledger": LedgerResource(workspace=workspace),
        "engines": EnginesResource(),
        "tables": ShardTables(workspace=workspace),
    }
