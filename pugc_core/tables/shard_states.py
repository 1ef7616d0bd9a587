"""In which state the shards of a data set are: with which prompts, models and parameters their pairs were made.

Read off footers: that of a shard's pairs, and of every table from which they came. A table that was made again since
the pairs were, with other rows, says nothing about them; that is a state of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from pugc_core.stages import SHARDED
from pugc_core.tables.store import Footer, Tables

_NAMED = 5
_TABLE = "table"
_FILTER = "filter"

State = Mapping[str, Mapping[str, str]]
"""Fingerprints by stage."""


class Difference(NamedTuple):
    """A part of a stage's fingerprint in which shards differ: the shards of each value, the fewest first."""

    stage: str
    part: str
    shards: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        if self.part == _FILTER:
            return f"the filter {self.stage} was left out of {_listed(self.shards[0])}"
        if self.part == _TABLE:
            return f"the pairs of {_listed(self.shards[0])} were made from an older table {self.stage}"
        from pugc_core.tables.staleness import PARTS  # which needs the recipe, which needs the checks, which need this

        groups = " against ".join(_listed(names) for names in self.shards)
        return f"the {self.stage} {PARTS.get(self.part, self.part)} differs: {groups}"


class Asked(NamedTuple):
    """A model that had a part in a data set, the fingerprint of its prompt, and the shards in which it was asked."""

    stage: str
    model: str
    prompt: str
    shards: tuple[str, ...]


class States(NamedTuple):
    """The state of every shard that has pairs, and wherein they differ."""

    of: Mapping[str, State]
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.differences))

    def asked(self) -> list[Asked]:
        """Who was asked what, in run order. More than one per stage where shards differ."""
        found: dict[tuple[str, str, str], list[str]] = {}
        for shard, state in self.of.items():
            for stage, parts in state.items():
                if "prompt" in parts:
                    found.setdefault((stage, parts["model"], parts["prompt"]), []).append(shard)
        order = sorted(found, key=lambda key: (SHARDED.index(key[0]), *key[1:]))
        return [Asked(*key, tuple(found[key])) for key in order]


def states(tables: Tables, shards: Collection[str], around: str = "") -> States:
    """The states of these shards of a recipe, in the round `around` ("round-1/", "" for the last). Those without a kept
    pair give a data set nothing, and are left out."""
    nodes = {stage: around + stage if around + stage in tables.names else stage for stage in SHARDED}
    footers = {stage: tables.footers(node) for stage, node in nodes.items()}
    with_pairs = sorted(s for s in shards if (pairs := footers["pairs"].get(s)) and pairs.kept)
    of = {shard: _state(shard, footers) for shard in with_pairs}
    return States(of, tuple(_differences(of)))


def merged(parts: Mapping[str, States]) -> States:
    """The states of the shards of several recipes, named `recipe/shard`. Recipes are merged because they differ: only
    the differences within one count."""
    of = {f"{recipe}/{shard}": state for recipe, part in parts.items() for shard, state in part.of.items()}
    told = [
        Difference(d.stage, d.part, tuple(tuple(f"{recipe}/{shard}" for shard in group) for group in d.shards))
        for recipe, part in parts.items()
        for d in part.differences
    ]
    return States(of, tuple(told))


def _state(shard: str, footers: Mapping[str, Mapping[str, Footer]]) -> State:
    """From the pairs back to the posts: what is not the table that the next one was made from is of no account."""
    found: dict[str, Mapping[str, str]] = {}
    wanted: dict[str, str] = {"pairs": footers["pairs"][shard].content}
    for stage in reversed(SHARDED):
        if stage not in wanted:
            continue
        footer = footers[stage].get(shard)
        if footer is None or footer.content != wanted[stage]:
            found[stage] = {_TABLE: "older"}
            continue
        found[stage] = footer.fingerprint
        wanted |= {name: content for name, content in footer.inputs.items() if name in footers}
    return {stage: found[stage] for stage in SHARDED if stage in found}


def _differences(of: Mapping[str, State]) -> Iterable[Difference]:
    if len(of) < 2:
        return
    for stage in SHARDED:
        here = {shard: state[stage] for shard, state in of.items() if stage in state}
        if older := tuple(shard for shard, parts in here.items() if _TABLE in parts):
            yield Difference(stage, _TABLE, (older,))
        known = {shard: parts for shard, parts in here.items() if _TABLE not in parts}
        # Behind an older table nobody knows what there was.
        without = [s for s, state in of.items() if stage not in state and not any(_TABLE in p for p in state.values())]
        if known and without:
            yield Difference(stage, _FILTER, (tuple(without),))
        for part in dict.fromkeys(name for parts in known.values() for name in parts):
            values: dict[str | None, list[str]] = {}
            for shard, parts in known.items():
                values.setdefault(parts.get(part), []).append(shard)
            if len(values) > 1:
                yield Difference(stage, part, tuple(sorted((tuple(s) for s in values.values()), key=len)))


def _listed(shards: Collection[str]) -> str:
    """ "a, b" or "a, b, c, d, e and 95 more"."""
    more = f" and {len(shards) - _NAMED} more" if len(shards) > _NAMED else ""
    return f"{', '.join(list(shards)[:_NAMED])}{more}"
