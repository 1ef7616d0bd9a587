"""What runs by itself: sensors, schedules and the jobs that they and people start.

Per project: the sensor `inbox` makes a partition of every whole file, and `staleness` keeps the checks `up_to_date`
true. Both cost no call and are on from the start. Per recipe, and off until somebody switches them on: the sensor
`<recipe>_new_content` runs shards that are new or whose file changed down to `pairs`, in batches; the schedule
`<recipe>_nightly` builds the data set and trains when enough new pairs have come. The job `refresh` makes again what
is out of date.
"""

import json
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from dagster._utils.schedules import is_valid_cron_schedule

from pugc_core import staleness, storage
from pugc_core.config import digest
from pugc_core.errors import PugcError, RecipeError
from pugc_core.recipe import Recipe, load
from pugc_core.stages.dataset import ALL
from pugc_core.summary import SHARDED
from pugc_core.training import lineage
from pugc_core.workspace import Workspace
from pugc_dagster import checks
from pugc_dagster.partitions import SHARDS_PER_RUN, partitions_name, shards, stretches
from pugc_dagster.project import recipe_folders
from pugc_dagster.stages.base import RECIPE_TAG, RUN_TAG, key

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    name="inbox",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes a partition of every file in the inbox that is whole; takes those away whose file is gone.",
)
def inbox(context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]) -> dg.SensorResult:
    """A file is whole when it looks as it did at the tick before: no clock is asked."""
    seen = storage.signatures(workspace.inbox)
    before: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    found, refused = workspace.scan()
    whole = {shard for shard, path in found.items() if seen.get(name := _name(path)) == before.get(name, "")}
    known = set(context.instance.get_dynamic_partitions(partitions_name()))
    # An inbox that is nowhere to be seen is a disk that is not there, not a hundred shards retired at once.
    gone = known - found.keys() if seen or storage.exists(workspace.inbox) else set()
    requests: list[Any] = [
        *([shards.build_add_request(sorted(whole - known))] if whole - known else []),
        *([shards.build_delete_request(sorted(gone))] if gone else []),
    ]
    for sentence in refused:
        context.log.warning(sentence)
    waiting = found.keys() - whole - known
    words = ((whole - known, "new"), (gone, "retired"), (waiting, "not yet whole"))
    reason = ", ".join(f"{len(names)} {word}" for names, word in words if names)
    if requests:
        context.log.info(f"shards: {reason}")
    return dg.SensorResult(
        dynamic_partitions_requests=requests,
        cursor=json.dumps(seen),
        skip_reason=dg.SkipReason("; ".join([f"shards: {reason}" if reason else "nothing new", *refused])[:500]),
    )


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def new_content(recipe: Recipe) -> tuple[Any, dg.SensorDefinition]:
    """The job that runs shards down to `pairs`, and the sensor that starts it for shards that are new or changed."""
    job = dg.define_asset_job(
        f"{recipe.group}_pairs",
        dg.AssetSelection.assets(*(key(recipe, stage) for stage in SHARDED)),
        description=f"Recipe {recipe.name}: from posts to pairs, for the shards chosen.",
    )

    @dg.sensor(
        name=f"{recipe.group}_new_content",
        job=job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Recipe {recipe.name}: runs shards that are new or whose file changed, down to pairs, in batches.",
    )
    def sensor(context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]) -> dg.SensorResult:
        filters = dg.RunsFilter(statuses=_UNFINISHED, tags={RECIPE_TAG: recipe.name})
        if running := context.instance.get_runs_count(filters):
            return _skip(f"{running} runs of this recipe are not finished", context.cursor)
        memory = json.loads(context.cursor) if context.cursor else {}
        seen: dict[str, str] = memory.get("seen", {})
        known = context.instance.get_dynamic_partitions(partitions_name())
        states = new_shards(recipe.name, workspace)
        wanting = {shard: states[shard] for shard in known if shard in states}
        tried = {shard: state for shard, state in memory.get("tried", {}).items() if shard in wanting}
        # Seen alike at two ticks, a file is whole. What a run got no further with waits for its file to change.
        todo = [shard for shard, state in wanting.items() if seen.get(shard) == state and tried.get(shard) != state]
        cursor = {"round": memory.get("round", 0) + bool(todo), "seen": wanting, "tried": tried}
        if not todo:
            stuck = sum(tried.get(shard) == state for shard, state in wanting.items())
            words = (
                f"{len(wanting) - stuck} shards are looked at once more" if len(wanting) > stuck else "",
                f"{stuck} shards got no further, see their last run; `pugc run` tries them again" if stuck else "",
            )
            return _skip("; ".join(filter(None, words)) or "every shard has its pairs", json.dumps(cursor))
        requests = [
            dg.RunRequest(
                # The same tick makes the same key, so that one that is repeated after a crash starts nothing twice.
                run_key=digest([recipe.name, cursor["round"], [(shard, wanting[shard]) for shard in batch]]),
                tags={
                    ASSET_PARTITION_RANGE_START_TAG: batch[0],
                    ASSET_PARTITION_RANGE_END_TAG: batch[-1],
                    RECIPE_TAG: recipe.name,
                    RUN_TAG: f"{recipe.name} {cursor['round']}",
                },
            )
            for batch in stretches(known, todo, SHARDS_PER_RUN)
        ]
        cursor["tried"] = tried | {shard: wanting[shard] for shard in todo}
        return dg.SensorResult(requests, cursor=json.dumps(cursor))

    return job, sensor


def _skip(words: str, cursor: str | None) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=dg.SkipReason(words), cursor=cursor)


def new_shards(recipe: str, workspace: Workspace) -> dict[str, str]:
    """Shards without pairs of their present file, with how far they are: the file's hash and the first stage to make.

    A changed prompt or threshold makes no shard new: what is out of date for such a reason waits for `refresh`.
    """
    footers = {stage: workspace.store.footers(recipe, stage) for stage in SHARDED}
    new: dict[str, str] = {}
    for shard, source in workspace.source_hashes().items():
        tables = {stage: footers[stage].get(shard) for stage in SHARDED}
        ugc = tables["ugc"]
        if ugc is None or ugc.inputs.get("source") != source:
            new[shard] = f"{source} ugc"
            continue
        for stage, table in tables.items():
            # Made from the posts of another file, or, which costs nothing to mend, pairs of other rewards.
            rewards = tables["rewards"]
            other = table is None or table.inputs.get("ugc", ugc.content) != ugc.content
            if other or (stage == "pairs" and table and rewards and table.inputs.get("rewards") != rewards.content):
                new[shard] = f"{source} {stage}"
                break
    return new


def nightly(recipe: Recipe) -> tuple[Any, dg.ScheduleDefinition]:
    """The job from pairs to policies and report, and its schedule."""
    cron = recipe.automation.nightly
    if recipe.automation.timezone not in zoneinfo.available_timezones():
        raise RecipeError(f"no timezone {recipe.automation.timezone!r}", fix='timezone = "Europe/Berlin"')
    if not is_valid_cron_schedule(cron):
        raise RecipeError(f"automation.nightly = {cron!r} is not a cron expression", fix='nightly = "0 3 * * *"')
    job = dg.define_asset_job(
        f"{recipe.group}_train",
        dg.AssetSelection.assets(
            key(recipe, "dataset"),
            *(key(recipe, "policy", objective) for objective in recipe.training.objectives),
            key(recipe, "report"),
        ),
        description=f"Recipe {recipe.name}: the data set of all pairs, the policies trained on it, and the report.",
    )
    least = recipe.automation.min_new_pairs

    @dg.schedule(
        name=f"{recipe.group}_nightly",
        job=job,
        cron_schedule=cron,
        execution_timezone=recipe.automation.timezone,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Recipe {recipe.name}: builds the data set and trains when {least} new pairs have come.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.RunRequest | dg.SkipReason:
        new = new_pairs(recipe, workspace)
        if new < least:
            return dg.SkipReason(f"{new} new pairs, fewer than {least}")
        # Under this key the same tick starts one run, however often it fires.
        return dg.RunRequest(run_key=f"{recipe.name} {context.scheduled_execution_time.isoformat()}")

    return job, schedule


def new_pairs(recipe: Recipe, workspace: Workspace) -> int:
    """Pairs in shards that the policy that has seen least of them was not trained on."""
    inbox = workspace.shards()
    footers = workspace.store.footers(recipe.name, "pairs")
    if not recipe.training.objectives:
        dataset = workspace.store.footers(recipe.name, "dataset").get(ALL)
        seen = {"pairs": dict(dataset.inputs)} if dataset else None
        return lineage.unseen(seen, {s: (f.content, f.kept) for s, f in footers.items() if s in inbox})
    pairs = {shard: (footer.content, footer.kept) for shard, footer in footers.items() if shard in inbox}
    folders = (workspace.policy(recipe.name, objective) for objective in recipe.training.objectives)
    return max((lineage.unseen(lineage.recorded(folder), pairs) for folder in folders), default=0)


def refresh(recipes: Mapping[str, Recipe]) -> dg.JobDefinition:
    """The job `refresh`: what is out of date, and all that follows from it."""

    class Refresh(dg.Config):
        recipe: str = "tiny" if "tiny" in recipes else next(iter(recipes), "")

    @dg.op(
        name="what_is_out_of_date",
        description="Makes again what is out of date; what is not keeps its tables and costs nothing.",
    )
    def op(context: dg.OpExecutionContext, config: Refresh) -> None:
        from pugc_dagster import execute  # it needs the definitions, which need this module

        if config.recipe not in recipes:
            raise RecipeError(f"no recipe {config.recipe!r}; known: {', '.join(recipes)}", fix="name one of them")
        recipe, workspace = recipes[config.recipe], execute.workspace()
        before = execute.refresh(context.instance, recipe, workspace, note=context.log.info, parent=context.run_id)
        for stage in before.stages:
            context.log.info(f"{stage}: {before.sentence(stage)}")

    @dg.job(
        name="refresh",
        description="Makes again every table that is out of date, and what follows from it; as does `pugc refresh`.",
    )
    def job() -> None:
        op()

    return job


def up_to_date(recipes: Sequence[Recipe]) -> dg.SensorDefinition:
    """The sensor that keeps the checks `up_to_date` true between runs: after a prompt was edited, say."""

    @dg.sensor(
        name="staleness",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares every table with what would be made now, and says so in the checks `up_to_date`.",
    )
    def sensor(context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]) -> dg.SensorResult:
        events: list[dg.AssetCheckEvaluation] = []
        for recipe in recipes:
            if not workspace.store.shards(recipe.name, "ugc"):
                continue
            try:
                now = _as_it_is(recipe)
                found = staleness.survey(now, now.stages(workspace.source), workspace)
            except PugcError as err:
                context.log.warning(f"recipe {recipe.name}: {err}")
                continue
            assets = {stage: key(recipe, *stage.split("/")) for stage in found.stages}
            said = _said(context.instance, assets.values())
            events += [
                _evaluation(result)
                for stage, asset in assets.items()
                if said.get(asset) != found.sentence(stage) and (found.made[stage] or asset in said)
                for result in checks.of_survey(asset, stage, found)
            ]
        skip = None if events else dg.SkipReason("nothing to say that was not said")
        return dg.SensorResult(asset_events=events, skip_reason=skip)

    return sensor


def _as_it_is(recipe: Recipe) -> Recipe:
    """The recipe as its file says now: it may have been edited since this process began."""
    folders = recipe_folders()
    own = any((folder / f"{recipe.name}.toml").is_file() for folder in folders)
    return load(recipe.name, folders) if own else recipe


def _said(instance: dg.DagsterInstance, assets: Iterable[dg.AssetKey]) -> dict[dg.AssetKey, str]:
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


def of(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Jobs, schedules and sensors of these recipes, as `dg.Definitions` takes them."""
    content, nights = [new_content(r) for r in recipes], [nightly(r) for r in recipes]
    return {
        "jobs": [refresh({r.name: r for r in recipes}), *(job for job, _ in content), *(job for job, _ in nights)],
        "sensors": [inbox, up_to_date(recipes), *(sensor for _, sensor in content)],
        "schedules": [schedule for _, schedule in nights],
    }
