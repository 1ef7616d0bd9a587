"""What a recipe would still ask of its models: draws by role, at most, as the ledger may have some of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pugc_core.plan import Chain
from pugc_core.stages.base import Asking
from pugc_core.tables.staleness import Survey
from pugc_core.tables.store import Footer


@dataclass(frozen=True)
class Draws:
    """Answers that a role would be asked for."""

    at_most: int
    unknown: int = 0
    """Shards of which nobody knows yet how many rows they have."""

    def __add__(self, more: Draws) -> Draws:
        return Draws(self.at_most + more.at_most, self.unknown + more.unknown)


def draws(chain: Chain, found: Survey) -> dict[str, Draws]:
    """By role, for every table that is missing or out of date. Rows are those of the table before, where it is there
    and current, else those that the shard had in a recipe that this one extends, or that other shards have."""
    asked: dict[str, Draws] = {}
    for name, stage in chain.stages.items():
        if isinstance(stage, Asking) and stage.role and (shards := found.stages.get(name)):
            known = _known(chain, name)
            total = sum((_of_shard(chain, found, name, shard, known) for shard in shards), Draws(0))
            asked[stage.role] = asked.get(stage.role, Draws(0)) + total
    return asked


def _known(chain: Chain, name: str) -> Mapping[str, Mapping[str, Footer]]:
    """The tables of a stage that the recipe and those it extends have, by recipe and shard, the nearest first."""
    store, owners = chain.workspace.store, dict.fromkeys(each.name for each in chain.lineage)
    return {owner: {s: f for s, f in store.footers(owner, name).items() if not f.failed} for owner in owners}


def _of_shard(chain: Chain, found: Survey, name: str, shard: str, known: Mapping[str, Mapping[str, Footer]]) -> Draws:
    stage = chain.stages[name]
    assert isinstance(stage, Asking)
    before = stage.gates[-1] if stage.gates else str(stage.after)
    parent = chain.nodes[name].parents[before]
    if shard not in found.stages.get(parent.name, {}):
        footer = chain.workspace.store.footer(parent.owner, parent.name, shard)
        if footer is not None:
            return Draws(footer.kept * len(stage.draws))
    for owner, tables in known.items():
        per_row = _draws_per_row(chain, owner, name)
        if per_row and shard in tables:
            return Draws(round(tables[shard].rows_in / per_row * len(stage.draws)))
    rows = [
        f.rows_in / per for owner, t in known.items() if (per := _draws_per_row(chain, owner, name)) for f in t.values()
    ]
    return Draws(round(sum(rows) / len(rows) * len(stage.draws))) if rows else Draws(0, 1)


def _draws_per_row(chain: Chain, owner: str, name: str) -> int:
    """Rows of a stage's table for each row that it goes through, in the recipe that made it; 0 where nobody knows."""
    stage = next((each.stages.get(name) for each in chain.lineage if each.name == owner), None)
    if not isinstance(stage, Asking):
        return 0
    return 1 if stage.row_for_row else len(stage.draws)
