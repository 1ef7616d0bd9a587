"""All assets of all recipes. Loading this imports no torch, and asks no network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import dagster as dg

from pugc_core.errors import PugcError
from pugc_core.plan import Chain
from pugc_core.tables.staleness import Survey
from pugc_dagster import assets
from pugc_dagster.visible_recipes import load_all
from pugc_dagster.web import automation, outdated


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


def of(
    chosen: Sequence[Chain],
    broken: Mapping[str, PugcError] | None = None,
    found: Mapping[str, Survey] | None = None,
) -> dg.Definitions:
    """The definitions of these recipes, with a notice for each of the broken; `found` is what is out of date."""
    return dg.Definitions(
        assets=[*assets.of(chosen), *(_notice(name, err) for name, err in (broken or {}).items())],
        resources=assets.resources(),
        # One process per run: light stages cost nothing, and models have processes of their own.
        executor=dg.in_process_executor,
        **automation.of(chosen, found),
    )


@dg.definitions
def defs() -> dg.Definitions:
    loaded, broken = load_all(automation.nightly)
    return of(loaded, broken, outdated.look(loaded))
