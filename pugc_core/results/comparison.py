"""Several recipes side by side: what their pairs and rewards have in common, and how they differ.

The first recipe is the reference; each other one is compared with it. `pugc compare`, the asset `<recipe>/comparison`
and the report show the same Comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from pugc_core.errors import RecipeError, StorageError
from pugc_core.plan import Chain
from pugc_core.results.pair_figures import AGAINST, OWN, PAIRS, REWARDS, Figures, Side, paired_by
from pugc_core.stages import STAGES
from pugc_core.stages.measures import total
from pugc_core.stages.records import NOTHING
from pugc_core.tables.staleness import survey
from pugc_core.tables.store import Footer, Tables


@dataclass(frozen=True)
class Compared:
    """One recipe of a comparison."""

    recipe: str
    own: Figures
    """Of this recipe alone, by name."""
    against: Figures
    """Of this recipe against the first; empty for the first itself."""

    @property
    def figures(self) -> Figures:
        return {**self.own, **self.against}


@dataclass(frozen=True)
class Comparison:
    """The recipes in the order they were named, the reference first."""

    recipes: tuple[Compared, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know: shards that are missing or out of date, how recipes are paired."""

    @property
    def names(self) -> list[str]:
        return [each.recipe for each in self.recipes]

    def rows(self) -> list[list[str]]:
        """The table: a row per figure, with its label and then a cell per recipe; empty where a recipe has none."""
        labels = {name: figure.label for each in self.recipes for name, figure in each.figures.items()}
        return [
            [label, *(str(each.figures[name]) if name in each.figures else "" for each in self.recipes)]
            for name, label in labels.items()
        ]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it: value, low, high and n for each estimate, a number for each count."""

        def values(figures: Figures) -> dict[str, Any]:
            return {name: asdict(f)["value"] for name, f in figures.items()}

        recipes = {each.recipe: {"own": values(each.own), "against": values(each.against)} for each in self.recipes}
        return {"reference": self.names[0], "recipes": recipes, "notes": list(self.notes)}


def of(chains: Sequence[Chain]) -> Comparison:
    """The comparison of two or more recipes. Raises RecipeError where one is named twice, and StorageError where one
    has no pairs or a table cannot be read."""
    if twice := [name for name, n in Counter(chain.name for chain in chains).items() if n > 1]:
        raise RecipeError(f"recipe {twice[0]} is named twice", fix="name recipes that differ: pugc compare A B")
    there = {chain.name: _footers(chain, "pairs") for chain in chains}
    if missing := [name for name, footers in there.items() if not footers]:
        raise StorageError(
            f"{'recipe' if len(missing) == 1 else 'recipes'} {' and '.join(missing)} cannot be compared: no pairs yet",
            fix=" && ".join(f"pugc run --recipe {name} --to pairs" for name in missing),
        )
    found = compare([read(chain, there[chain.name]) for chain in chains])
    return Comparison(found.recipes, (*(note for chain in chains for note in _states(chain)), *found.notes))


def read(chain: Chain, pairs: Mapping[str, Footer]) -> Side:
    """What is compared of a recipe, of the shards whose pairs have these footers. Raises StorageError."""
    judged = (footer.measures for shard, footer in chain.tables.footers("rewards").items() if shard in pairs)
    return Side(
        chain.name,
        # The same post may lie in two shards: each instruction and response counts once.
        _rows(chain.tables, "pairs", pairs, PAIRS).unique("instruction_id", keep="first", maintain_order=True),
        _rows(chain.tables, "rewards", pairs, REWARDS).filter("keep").unique("response_id", maintain_order=True),
        sum((footer.counts for footer in pairs.values()), NOTHING),
        total(judged),
    )


def compare(sides: Sequence[Side]) -> Comparison:
    """The figures of each side, and of each against the first."""
    first, *others = sides
    recipes = [Compared(first.recipe, _own(first), {})]
    recipes += [Compared(other.recipe, _own(other), _against(first, other)) for other in others]
    notes = [
        f"most posts that {first.recipe} and {other.recipe} have in common have other instructions; the differences "
        "between the two are between posts, and no pair can be the same or flipped but for instructions in common"
        for other in others
        if paired_by(first, other) == "ugc_id"
    ]
    return Comparison(tuple(recipes), tuple(notes))


def _own(side: Side) -> Figures:
    return {name: figure for figures in OWN for name, figure in figures(side).items()}


def _against(first: Side, other: Side) -> Figures:
    return {name: figure for figures in AGAINST for name, figure in figures(first, other).items()}


def _footers(chain: Chain, stage: str) -> dict[str, Footer]:
    """Of the shards that are in the inbox and could be made."""
    inbox = chain.workspace.shards()
    return {s: footer for s, footer in chain.tables.footers(stage).items() if s in inbox and not footer.failed}


def _rows(tables: Tables, stage: str, shards: Mapping[str, Footer], columns: Sequence[str]) -> pl.DataFrame:
    schema = STAGES[stage].table.schema
    empty = pl.DataFrame(schema={name: schema[name] for name in columns})
    return pl.concat([empty, *(tables.read(stage, shard, columns) for shard in shards)])


def _states(chain: Chain) -> list[str]:
    """What is to be said of the tables that were read: shards that are missing, out of date or could not be made."""
    found, notes = survey(chain, to="pairs"), []
    if found.stages["pairs"]:
        notes.append(
            f"pairs of {chain.name}: {found.sentence('pairs')}; fix: pugc run --recipe {chain.name} --to pairs"
        )
    if failed := {shard for whys in found.failed.values() for shard in whys}:
        notes.append(
            f"{len(failed)} shards of {chain.name} could not be made; pugc status --recipe {chain.name} says why"
        )
    return notes
