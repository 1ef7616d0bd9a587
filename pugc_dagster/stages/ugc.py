"""Asset `ugc`."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from pugc_core.recipe import Recipe
from pugc_core.stages.base import Stage
from pugc_dagster.stages.base import stage_asset

SENTENCE = (
    "Posts as people wrote them: read from the shard's file, normalised, exact duplicates and unusable rows set aside."
)


def assets(recipe: Recipe, stages: Mapping[str, Stage]) -> list[dg.AssetsDefinition]:
    return [stage_asset(recipe, stages["ugc"], SENTENCE)]
