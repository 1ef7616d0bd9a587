"""Asset `instructions`."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from pugc_core.recipe import Recipe
from pugc_core.stages.base import Stage
from pugc_dagster.stages.base import stage_asset

SENTENCE = "For every good post the question that a reader would have asked to get it as the answer."


def assets(recipe: Recipe, stages: Mapping[str, Stage]) -> list[dg.AssetsDefinition]:
    return [stage_asset(recipe, stages["instructions"], SENTENCE)]
