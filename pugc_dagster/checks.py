"""Asset checks: what a run's tables must be before the next stage spends anything on them."""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from pugc_core import checks
from pugc_core.stages.dataset import ALL
from pugc_core.staleness import Survey
from pugc_core.summary import SHARDED

UP_TO_DATE = "up_to_date"
EVERY_SHARD = "every_shard"
LISTED = 1000
"""Shards whose reasons a check's metadata has."""


def specs(key: dg.AssetKey, stage: str) -> list[dg.AssetCheckSpec]:
    """The checks of a stage's asset. Failing ones stop the stages after it, except those that warn."""
    found = [
        dg.AssetCheckSpec(name, asset=key, description=checks.CHECKS[name].__doc__, blocking=name not in checks.WARN)
        for name in checks.of(stage)
    ]
    if stage in SHARDED:
        words = "Every shard could be made. One that could not has an empty table, and the others go on without it."
        found.append(dg.AssetCheckSpec(EVERY_SHARD, asset=key, description=words, blocking=False))
    return [*found, up_to_date_spec(key)]


def up_to_date_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    words = "Every table is what its prompt, model, parameters and inputs would give now. Mend with the job `refresh`."
    return dg.AssetCheckSpec(UP_TO_DATE, asset=key, description=words, blocking=False)


def results(key: dg.AssetKey, tables: checks.Tables) -> Iterator[dg.AssetCheckResult]:
    """What the checks of a stage find in a run's tables."""
    for name in checks.of(tables.stage):
        found = checks.CHECKS[name](tables)
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=name,
            passed=found.passed,
            severity=dg.AssetCheckSeverity.WARN if name in checks.WARN else dg.AssetCheckSeverity.ERROR,
            description=f"{found.words}: {', '.join(found.rows)}" if found.rows else found.words,
            metadata={"rows": dg.MetadataValue.json(list(found.rows))} if found.rows else None,
        )


def of_survey(key: dg.AssetKey, stage: str, survey: Survey) -> Iterator[dg.AssetCheckResult]:
    """What is to be said of a stage's tables without looking into them."""
    if stage in SHARDED:
        failed = survey.failed.get(stage, {})
        words = f"{len(failed)} of {survey.total[stage]} shards could not be made: {'; '.join(_first(failed))}"
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=EVERY_SHARD,
            passed=not failed,
            description=words if failed else f"{survey.made[stage]} shards are made",
            metadata={"failed": dg.MetadataValue.json(dict(list(failed.items())[:LISTED]))} if failed else None,
        )
    yield up_to_date(key, stage, survey)


def up_to_date(key: dg.AssetKey, stage: str, survey: Survey) -> dg.AssetCheckResult:
    """How many of a stage's tables are out of date, and why."""
    outdated = survey.outdated(stage)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=UP_TO_DATE,
        passed=not outdated,
        severity=dg.AssetCheckSeverity.WARN,
        description=survey.sentence(stage),
        metadata={
            "out_of_date": len(outdated),
            "shards": survey.total[stage],
            **({"first": dg.MetadataValue.json(_first(outdated))} if outdated and ALL not in outdated else {}),
        },
    )


def _first(whys: Mapping[str, str]) -> Sequence[str]:
    return [f"{shard}: {why}" for shard, why in list(whys.items())[: checks.NAMED]]
