"""Asset `quality`."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from pugc_core.recipe import Recipe
from pugc_core.stages.base import Stage
from pugc_dagster.stages.base import stage_asset

SENTENCE = (
    "A judge rates every post from 1 to 5 as a source for a question and its answer; those below {least} are dropped."
)


def assets(recipe: Recipe, stages: Mapping[str, Stage]) -> list[dg.AssetsDefinition]:
    return [stage_asset(recipe, stages["quality"], SENTENCE.format(least=recipe.quality.min_score))]
