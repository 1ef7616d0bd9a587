"""Which asset is which node."""

from __future__ import annotations

import dagster as dg

from pugc_core.plan import Chain


def key(chain: Chain, name: str) -> dg.AssetKey:
    """The asset of a node of a chain, or of its report: the group of the recipe that owns it, then its name."""
    owner = chain.owner(name) if name in chain.nodes else chain
    return dg.AssetKey([owner.recipe.group, *name.replace("-", "_").split("/")])
