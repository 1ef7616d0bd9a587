"""Asset `responses`."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from pugc_core.recipe import Recipe
from pugc_core.stages.base import Stage
from pugc_dagster.stages.base import stage_asset

SENTENCE = "K answers to every instruction, sampled from the policy that is to be trained."


def assets(recipe: Recipe, stages: Mapping[str, Stage]) -> list[dg.AssetsDefinition]:
    return [stage_asset(recipe, stages["responses"], SENTENCE)]
