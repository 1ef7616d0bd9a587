"""What is out of date, in the web UI: jobs that name it, make it again and mark it, and the sensor that keeps the
checks `up_to_date` true.

Dagster has no word for a partition that is there and out of date: it is green, and the dialog that starts a backfill
picks partitions one by one, or all that failed or are missing. The job `<recipe>_mark_stale` therefore makes those
that are out of date count as failed. Decision 0016 has what else was tried.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
import pydantic
from dagster._core.events import AssetMaterializationPlannedData

from pugc_core.errors import PugcError, RecipeError
from pugc_core.plan import Chain
from pugc_core.recipe import Recipe, load
from pugc_core.tables import staleness
from pugc_core.tables.staleness import Survey
from pugc_dagster.keys import key
from pugc_dagster.partitions import partitions_name
from pugc_dagster.project import recipe_folders
from pugc_dagster.runs import execute, finished
from pugc_dagster.stages import checks

log = logging.getLogger("pugc")


def look(chains: Iterable[Chain]) -> dict[str, Survey]:
    """What is out of date, by recipe; those without tables, and those that cannot be looked at, are left out."""
    found = {}
    for chain in chains:
        try:
            if chain.tables.shards("ugc"):
                found[chain.name] = staleness.survey(chain)
        except Exception as err:  # storage that is away for a while, say, is no reason to show nothing at all
            log.warning("recipe %s: what is out of date is not known: %s", chain.name, err)
    return found


def refresh(chain: Chain, found: Survey | None = None) -> dg.JobDefinition:
    """The job that makes again what is out of date. Its launch page names the shards that are, by `found`."""
    by_shard = _to_refresh(found)
    listed = by_shard if len(by_shard) <= checks.LISTED else {}

    class OutOfDate(dg.Config):
        shards: dict[str, str] = pydantic.Field(
            default=listed,
            description="Shards that were out of date when the definitions were loaded, and why. Take out those that "
            "may stay as they are. Empty means all that are out of date when the job runs.",
        )

    @dg.op(
        name=f"{chain.recipe.group}_make_again",
        description="What is not out of date keeps its tables and costs nothing.",
    )
    def op(context: dg.OpExecutionContext, config: OutOfDate) -> None:
        names = list[str]()  # Left as it is, the list means all that are out of date by now.
        if config.shards.keys() != listed.keys():
            retired = listed.keys() - chain.workspace.shards().keys()  # since the definitions were loaded
            names = [shard for shard in config.shards if shard not in retired]
        before = execute.refresh(context.instance, chain, names, note=context.log.info, parent=context.run_id)
        for stage in before.stages:
            context.log.info(f"{stage}: {before.sentence(stage)}")

    words = f"Recipe {chain.name}: makes again what is out of date, and what follows from it; as does `pugc refresh`."

    @dg.job(name=f"{chain.recipe.group}_refresh", description=_description(words, found))
    def job() -> None:
        op()

    return job


def mark(chain: Chain, found: Survey | None = None) -> dg.JobDefinition:
    """The job that makes shards that are out of date count as failed in the web UI, so that a backfill can pick them.

    Dagster takes a partition for failed when a run that meant to make it has failed since. So this run says that it
    means to make them, and fails; a shard that is made again, or found to be current, counts as made as before.
    """
    sentences = _sentences(found, chain.sharded)

    class Marked(dg.Config):
        stages: dict[str, str] = pydantic.Field(
            default=sentences,
            description="Stages with shards that were out of date when the definitions were loaded. Take out those "
            "that are not to be marked. Empty means all.",
        )

    @dg.op(name=f"{chain.recipe.group}_mark", description="Makes nothing; fails when anything is out of date.")
    def op(context: dg.OpExecutionContext, config: Marked) -> None:
        if unknown := config.stages.keys() - set(chain.sharded):
            raise RecipeError(f"no stage {', '.join(unknown)} with shards", fix=f"take of {', '.join(chain.sharded)}")
        now = staleness.survey(chain)
        known = set(context.instance.get_dynamic_partitions(partitions_name()))
        marked = {stage: [s for s in _wanting(now, stage) if s in known] for stage in config.stages or chain.sharded}
        for stage, shards in marked.items():
            for shard in shards:
                planned = AssetMaterializationPlannedData(key(chain, stage), partition=shard)
                event = dg.DagsterEvent.build_asset_materialization_planned_event(context.job_name, "", planned)
                context.instance.report_dagster_event(event, context.run_id)
        if not any(marked.values()):
            context.log.info("nothing is out of date")
            return
        finished.forget(chain.name)  # the next run, once they are current again, takes the marks away
        raise dg.Failure(
            "Out of date, and marked so: "
            + ", ".join(f"{len(shards)} shards of {stage}" for stage, shards in marked.items() if shards)
            + ". In the web UI choose the stages, Materialize, Failed. This run fails so that they count as failed.",
            metadata={stage: checks.names(shards) for stage, shards in marked.items() if shards},
            allow_retries=False,
        )

    words = (
        f"Recipe {chain.name}: marks the shards that are out of date as failed, so that the dialog that materializes "
        "assets picks them under *Failed*. The run itself fails, which is the mark; it makes nothing and asks no model."
    )

    @dg.job(name=f"{chain.recipe.group}_mark_stale", description=_description(words, found))
    def job() -> None:
        op()

    return job


def _wanting(found: Survey, stage: str) -> Mapping[str, str]:
    """Shards that are out of date, and those that could not be made, which are green in the web UI too."""
    return {**found.outdated(stage), **found.failed.get(stage, {})}


def _to_refresh(found: Survey | None) -> dict[str, str]:
    """The shards that a refresh makes again, with the reason: also those that were begun and not finished."""
    if found is None:
        return {}
    whys = _by_shard(found)
    return {shard: whys.get(shard, "not finished") for shard in staleness.to_refresh(found, found.sharded)[1]}


def _by_shard(found: Survey | None) -> dict[str, str]:
    """Why a shard is out of date, by shard: from its first stage that is, since what follows has it from there."""
    whys: dict[str, str] = {}
    for stage in found.sharded if found else ():
        assert found is not None
        for shard, why in found.outdated(stage).items():
            whys.setdefault(shard, f"{stage}: {why}")
    return whys


def _sentences(found: Survey | None, stages: Iterable[str]) -> dict[str, str]:
    return {stage: found.sentence(stage) for stage in stages if found and _wanting(found, stage)}


def _description(words: str, found: Survey | None) -> str:
    """`words`, and what is out of date with names."""
    said = _sentences(found, found.stages if found else ())
    if not said:
        return words
    lines = [f"- `{stage}`: {sentence}" for stage, sentence in said.items()]
    shards = list(_by_shard(found))
    names = f"\n\nShards: {checks.names(shards)}" if shards else ""
    return "\n".join([words, "", "When the definitions were loaded:", "", *lines]) + names


def staleness_sensor(chains: Sequence[Chain]) -> dg.SensorDefinition:
    """The sensor that keeps the checks `up_to_date` true between runs: after a prompt was edited, say."""

    @dg.sensor(
        name="staleness",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares every table with what would be made now, and says so in the checks `up_to_date`.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        events: dict[dg.AssetKey, list[dg.AssetCheckEvaluation]] = {}
        for chain in chains:
            if not chain.tables.shards("ugc"):
                continue
            try:
                now = Chain(_as_it_is(chain.recipe), chain.workspace)
                found = staleness.survey(now)
            except PugcError as err:
                context.log.warning(f"recipe {chain.name}: {err}")
                continue
            assets = {stage: key(now, stage) for stage in found.stages if key(now, stage) not in events}
            said = _said(context.instance, assets.values())
            for stage, asset in assets.items():
                new = said.get(asset) != found.sentence(stage) and (found.made[stage] or asset in said)
                results = checks.of_survey(asset, stage, found) if new else ()
                events[asset] = [_evaluation(result) for result in results]
        told = [event for some in events.values() for event in some]
        skip = None if told else dg.SkipReason("nothing to say that was not said")
        return dg.SensorResult(asset_events=told, skip_reason=skip)

    return sensor


def _as_it_is(recipe: Recipe) -> Recipe:
    """The recipe as its file says now: it may have been edited since this process began."""
    folders = recipe_folders()
    own = any((folder / f"{recipe.name}.toml").is_file() for folder in folders)
    return load(recipe.name, folders) if own else recipe


def _said(instance: dg.DagsterInstance, assets: Iterable[dg.AssetKey]) -> Mapping[dg.AssetKey, str]:
    """What the checks said last, whoever evaluated them."""
    said = {}
    for asset in assets:
        check = dg.AssetCheckKey(asset, checks.UP_TO_DATE)
        records = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
        event = records[0].event if records else None
        if event and (result := event.asset_check_evaluation):
            said[asset] = result.description or ""
    return said


def _evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    assert result.asset_key is not None
    assert result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
        blocking=False,
    )
