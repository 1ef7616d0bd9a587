"""Asset `report`: what came of it all, in one HTML file."""

import dagster as dg

from pugc_core import progress, storage
from pugc_core.recipe import Recipe
from pugc_core.workspace import Workspace
from pugc_dagster import reports
from pugc_dagster.stages.base import key

SENTENCE = "One HTML file, readable offline: rows kept and dropped, calls, rewards, example pairs, trainings."


def asset(recipe: Recipe) -> dg.AssetsDefinition:
    policies = [key(recipe, "policy", objective) for objective in recipe.training.objectives]

    @dg.asset(
        key=key(recipe, "report"),
        deps=[key(recipe, "dataset"), *policies],
        description=SENTENCE,
        group_name=recipe.group,
        required_resource_keys={"workspace"},
        kinds={"html"},
        check_specs=[
            dg.AssetCheckSpec(
                "opens_offline", asset=key(recipe, "report"), description="The page asks nothing of any server."
            )
        ],
    )
    def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        workspace: Workspace = context.resources.workspace
        with progress.doing("writing the report: seconds"):
            path = reports.write(recipe, workspace)
        asked = reports.outside(storage.read(path).decode())
        return dg.MaterializeResult(
            metadata={"path": dg.MetadataValue.path(path)},
            check_results=[
                dg.AssetCheckResult(
                    check_name="opens_offline",
                    passed=not asked,
                    description=f"asks for {', '.join(asked[:5])}" if asked else "asks for nothing",
                )
            ],
        )

    return report
