"""Which asset is which node."""

from __future__ import annotations

import dagster as dg

from pugc_core.plan import Chain, Node


def node_key(node: Node) -> dg.AssetKey:
    """The asset of a node: the group of the recipe that owns it, then its name."""
    return dg.AssetKey([part.replace("-", "_") for part in (node.owner, *node.name.split("/"))])


def key(chain: Chain, name: str) -> dg.AssetKey:
    """The asset of a node of a chain, or of its report."""
    return node_key(chain.nodes[name]) if name in chain.nodes else dg.AssetKey([chain.recipe.group, name])
