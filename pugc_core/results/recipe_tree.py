"""Recipes as a tree: what each shares with the one it extends, what it owns, what is out of date and would be asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pugc_core.plan import Chain
from pugc_core.results import pending_calls
from pugc_core.results.pending_calls import Draws
from pugc_core.tables.staleness import survey


@dataclass(frozen=True)
class Branch:
    """A recipe, and those that extend it."""

    name: str
    about: str
    owns: tuple[str, ...]
    shares: dict[str, tuple[str, ...]]
    """Nodes that it shares, by the recipe that owns them."""
    made: int
    """Tables and policies that are there, of `total`."""
    total: int
    out_of_date: int
    would_ask: dict[str, Draws]
    """By role, for all that is missing or out of date, of what it shares too."""
    forks: list[Branch] = field(default_factory=list)


def tree(chains: Sequence[Chain]) -> list[Branch]:
    """The recipes that extend none of the others, each with those that do."""
    found = {chain.name: _branch(chain) for chain in _with_bases(chains)}
    roots: list[Branch] = []
    for chain in _with_bases(chains):
        above = chain.base
        (found[above.name].forks if above else roots).append(found[chain.name])
    return roots


def _with_bases(chains: Iterable[Chain]) -> list[Chain]:
    """The chains and those of the recipes that they extend, each once."""
    return list({each.name: each for chain in chains for each in reversed(chain.lineage)}.values())


def _branch(chain: Chain) -> Branch:
    found = survey(chain)
    shares: dict[str, tuple[str, ...]] = {}
    for name, node in chain.nodes.items():
        if not chain.owns(name):
            shares[node.owner] = (*shares.get(node.owner, ()), name)
    return Branch(
        chain.name,
        chain.recipe.about,
        tuple(name for name in chain.nodes if chain.owns(name)),
        shares,
        sum(found.made.values()),
        sum(found.total.values()),
        sum(len(found.outdated(name)) for name in found.stages),
        pending_calls.draws(chain, found),
    )
