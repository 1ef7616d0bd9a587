"""Asset `relevance`."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from pugc_core.recipe import Recipe
from pugc_core.stages.base import Stage
from pugc_dagster.stages.base import stage_asset

SENTENCE = "A filter that keeps only instructions which their post really answers: True or False."


def assets(recipe: Recipe, stages: Mapping[str, Stage]) -> list[dg.AssetsDefinition]:
    return [stage_asset(recipe, stages["relevance"], SENTENCE)]
