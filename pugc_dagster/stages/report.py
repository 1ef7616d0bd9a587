"""Asset `report`: what came of it all, in one HTML file."""

from collections.abc import Mapping

import dagster as dg

from pugc_core.recipe import Recipe
from pugc_core.stages.base import Stage
from pugc_core.workspace import Workspace
from pugc_dagster import reports
from pugc_dagster.stages.base import key

SENTENCE = "One HTML file, readable offline: rows kept and dropped, calls, rewards, example pairs, trainings."


def assets(recipe: Recipe, stages: Mapping[str, Stage]) -> list[dg.AssetsDefinition]:
    policies = [key(recipe, "policy", objective) for objective in recipe.training.objectives]

    @dg.asset(
        key=key(recipe, "report"),
        deps=[key(recipe, "dataset"), *policies],
        description=SENTENCE,
        group_name=recipe.group,
        required_resource_keys={"workspace"},
        kinds={"html"},
    )
    def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        workspace: Workspace = context.resources.workspace
        return dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(reports.write(recipe, workspace))})

    return [report]
