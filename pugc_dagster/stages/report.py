"""Asset `report`: what came of it all, in one HTML file."""

import dagster as dg

from pugc_core import progress, storage
from pugc_core.plan import Chain
from pugc_dagster import reports
from pugc_dagster.keys import key

SENTENCE = "One HTML file, readable offline: rows kept and dropped, calls, rewards, example pairs, trainings."


def asset(chain: Chain) -> dg.AssetsDefinition:
    before = [name for name in chain.nodes if name not in chain.sharded]

    @dg.asset(
        key=key(chain, "report"),
        deps=[key(chain, name) for name in before],
        description=SENTENCE,
        group_name=chain.recipe.group,
        required_resource_keys={"workspace"},
        kinds={"html"},
        check_specs=[
            dg.AssetCheckSpec(
                "opens_offline", asset=key(chain, "report"), description="The page asks nothing of any server."
            )
        ],
    )
    def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        with progress.doing("writing the report: seconds"):
            path = reports.write(chain)
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
