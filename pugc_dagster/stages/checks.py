"""Asset checks: what a run's tables must be before the next stage spends anything on them."""

from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import dagster as dg

from pugc_core.errors import CheckFailed
from pugc_core.stages.base import Stage
from pugc_core.stages.records import ALL
from pugc_core.tables import checks
from pugc_core.tables.staleness import Survey

UP_TO_DATE = "up_to_date"
EVERY_SHARD = "every_shard"
LISTED = 1000
"""Shards that are named where what is out of date or failed is shown; there may be tens of thousands."""


def specs(key: dg.AssetKey, stage: Stage) -> list[dg.AssetCheckSpec]:
    """The checks of a stage's asset. Failing ones stop the stages after it, except those that warn."""
    found = [
        dg.AssetCheckSpec(name, asset=key, description=checks.CHECKS[name].__doc__, blocking=name not in checks.WARN)
        for name in checks.of(stage.name)
    ]
    if stage.sharded:
        words = "Every shard could be made. One that could not has an empty table, and the others go on without it."
        found.append(dg.AssetCheckSpec(EVERY_SHARD, asset=key, description=words, blocking=False))
    return [*found, up_to_date_spec(key)]


def up_to_date_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    group = key.path[0]
    words = (
        "Every table is what its prompt, model, parameters and inputs would give now. "
        f"Mend with the job `{group}_refresh`, or mark what is not with `{group}_mark_stale` and materialize *Failed*."
    )
    return dg.AssetCheckSpec(UP_TO_DATE, asset=key, description=words, blocking=False)


def results(key: dg.AssetKey, tables: checks.Checked) -> Iterator[dg.AssetCheckResult]:
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
    if stage in survey.sharded:
        failed = survey.failed.get(stage, {})
        words = (
            f"{len(failed)} of {survey.total[stage]} shards could not be made: {'; '.join(_whys(failed, checks.NAMED))}"
        )
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name=EVERY_SHARD,
            passed=not failed,
            description=words if failed else f"{survey.made[stage]} shards are made",
            metadata={"failed": dg.MetadataValue.json(dict(islice(failed.items(), LISTED)))} if failed else None,
        )
    yield up_to_date(key, stage, survey)


def mixture(key: dg.AssetKey, pairs: checks.Checked) -> Iterator[dg.AssetCheckResult]:
    """Before a data set is made: the failed check and then CheckFailed, where its shards are in different states. The
    data set that is there stays as it is."""
    try:
        checks.refuse_mixture(pairs)
    except CheckFailed as err:
        yield dg.AssetCheckResult(asset_key=key, check_name="one_state", passed=False, description=str(err))
        raise


def up_to_date(key: dg.AssetKey, stage: str, survey: Survey) -> dg.AssetCheckResult:
    """How many of a stage's tables are out of date, and why."""
    outdated = survey.outdated(stage)
    named = outdated and ALL not in outdated
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=UP_TO_DATE,
        passed=not outdated,
        severity=dg.AssetCheckSeverity.WARN,
        description=survey.sentence(stage),
        metadata={
            "out_of_date": len(outdated),
            "shards": survey.total[stage],
            **({"names": names(outdated), "why": dg.MetadataValue.json(_whys(outdated))} if named else {}),
        },
    )


def names(shards: Collection[str]) -> str:
    """The first shards, in the form that Dagster has for a selection of partitions: "a, b, c"."""
    return ", ".join(islice(shards, LISTED))


def _whys(whys: Mapping[str, str], most: int = LISTED) -> list[str]:
    return [f"{shard}: {why}" for shard, why in islice(whys.items(), most)]
