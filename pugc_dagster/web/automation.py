"""What runs by itself: sensors, schedules and the jobs that they and people start.

Per project: the sensor `inbox` makes a partition of every whole file, and `staleness` keeps the checks `up_to_date`
true. Both cost no call and are on from the start. Per recipe, and off until somebody switches them on: the sensor
`<recipe>_new_content` runs shards that are new or whose file changed down to `pairs`, in batches; the schedule
`<recipe>_nightly` builds the data set and trains when enough new pairs have come. What is out of date is the business
of `pugc_dagster.web.outdated`.
"""

import json
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG
from dagster._utils.schedules import is_valid_cron_schedule

from pugc_core import storage
from pugc_core.config import digest
from pugc_core.errors import RecipeError
from pugc_core.plan import Chain
from pugc_core.stages import of_node
from pugc_core.stages.pairs import Pairs
from pugc_core.stages.records import ALL
from pugc_core.stages.rewards import Rewards
from pugc_core.tables.staleness import Survey
from pugc_core.tables.workspace import Workspace
from pugc_core.training import lineage
from pugc_dagster.keys import key
from pugc_dagster.partitions import SHARDS_PER_RUN, partitions_name, shards, stretches
from pugc_dagster.runs import execute
from pugc_dagster.stages.base import RECIPE_TAG, RUN_TAG
from pugc_dagster.web import outdated

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


def new_content(chain: Chain) -> tuple[Any, dg.SensorDefinition]:
    """The job that runs shards down to `pairs`, and the sensor that starts it for shards that are new or changed."""
    job = dg.define_asset_job(
        f"{chain.recipe.group}_pairs",
        dg.AssetSelection.assets(*(key(chain, name) for name in _first(chain))),
        description=f"Recipe {chain.name}: from posts to pairs, for the shards chosen.",
    )

    @dg.sensor(
        name=f"{chain.recipe.group}_new_content",
        job=job,
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Recipe {chain.name}: runs shards that are new or whose file changed, down to pairs, in batches.",
    )
    def sensor(context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]) -> dg.SensorResult:
        filters = dg.RunsFilter(statuses=_UNFINISHED, tags={RECIPE_TAG: chain.name})
        if running := context.instance.get_runs_count(filters):
            return _skip(f"{running} runs of this recipe are not finished", context.cursor)
        memory = json.loads(context.cursor) if context.cursor else {}
        seen: dict[str, str] = memory.get("seen", {})
        known = context.instance.get_dynamic_partitions(partitions_name())
        states = new_shards(chain)
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
                run_key=digest([chain.name, cursor["round"], [(shard, wanting[shard]) for shard in batch]]),
                tags={
                    ASSET_PARTITION_RANGE_START_TAG: batch[0],
                    ASSET_PARTITION_RANGE_END_TAG: batch[-1],
                    RECIPE_TAG: chain.name,
                    RUN_TAG: f"{chain.name} {cursor['round']}",
                },
            )
            for batch in stretches(known, todo, SHARDS_PER_RUN)
        ]
        cursor["tried"] = tried | {shard: wanting[shard] for shard in todo}
        return dg.SensorResult(requests, cursor=json.dumps(cursor))

    return job, sensor


def _first(chain: Chain) -> list[str]:
    """The nodes over shards before the first that waits for all shards: down to pairs, in the first round."""
    return next(names for over_shards, names in chain.segments() if over_shards)


def _skip(words: str, cursor: str | None) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=dg.SkipReason(words), cursor=cursor)


def new_shards(chain: Chain) -> dict[str, str]:
    """Shards without pairs of their present file, with how far they are: the file's hash and the first stage to make.

    A changed prompt or threshold makes no shard new: what is out of date for such a reason waits for `refresh`.
    """
    footers = {stage: chain.tables.footers(stage) for stage in _first(chain)}
    new: dict[str, str] = {}
    for shard, source in chain.workspace.source_hashes().items():
        tables = {stage: footers[stage].get(shard) for stage in footers}
        ugc = tables["ugc"]
        if ugc is None or ugc.inputs.get("source") != source:
            new[shard] = f"{source} ugc"
            continue
        for stage, table in tables.items():
            # Made from the posts of another file, or, which costs nothing to mend, pairs of other rewards.
            rewards = next((t for name, t in tables.items() if of_node(name) is Rewards), None)
            other = table is None or table.inputs.get("ugc", ugc.content) != ugc.content
            again = table is not None and table.failed and stage != "ugc"
            mixed = of_node(stage) is Pairs and table and rewards and table.inputs.get("rewards") != rewards.content
            if other or again or mixed:
                new[shard] = f"{source} {stage}"
                break
    return new


def nightly(chain: Chain) -> tuple[Any, dg.ScheduleDefinition]:
    """The job from pairs to policies and report, and its schedule."""
    cron = chain.recipe.automation.nightly
    if chain.recipe.automation.timezone not in zoneinfo.available_timezones():
        raise RecipeError(f"no timezone {chain.recipe.automation.timezone!r}", fix='timezone = "Europe/Berlin"')
    if not is_valid_cron_schedule(cron):
        raise RecipeError(f"automation.nightly = {cron!r} is not a cron expression", fix='nightly = "0 3 * * *"')
    job = _rounds(chain) if chain.recipe.rounds.count > 1 else _training(chain)
    least = chain.recipe.automation.min_new_pairs

    @dg.schedule(
        name=f"{chain.recipe.group}_nightly",
        job=job,
        cron_schedule=cron,
        execution_timezone=chain.recipe.automation.timezone,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Recipe {chain.name}: builds the data set and trains when {least} new pairs have come.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.RunRequest | dg.SkipReason:
        new = new_pairs(chain)
        if new < least:
            return dg.SkipReason(f"{new} new pairs, fewer than {least}")
        # Under this key the same tick starts one run, however often it fires.
        return dg.RunRequest(run_key=f"{chain.name} {context.scheduled_execution_time.isoformat()}")

    return job, schedule


def _training(chain: Chain) -> Any:
    whole = [key(chain, name) for name in chain.nodes if name not in chain.sharded]
    words = "the data set of all pairs, the policies trained on it, and the report"
    return dg.define_asset_job(
        f"{chain.recipe.group}_train",
        dg.AssetSelection.assets(*whole, key(chain, "report")),
        description=f"Recipe {chain.name}: {words}.",
    )


def _rounds(chain: Chain) -> dg.JobDefinition:
    """Between trainings the rounds go over the shards again, which no one selection of assets can."""

    @dg.op(name=f"{chain.recipe.group}_go_on", description="What is up to date is not made again.")
    def op(context: dg.OpExecutionContext) -> None:
        execute.run(context.instance, chain)

    words = "every round, from the data set of the first to the policies of the last, and the report"

    @dg.job(name=f"{chain.recipe.group}_train", description=f"Recipe {chain.name}: {words}.")
    def job() -> None:
        op()

    return job


def new_pairs(chain: Chain) -> int:
    """Pairs in shards that the policy that has seen least of them was not trained on."""
    inbox = chain.workspace.shards()
    first = next(names for over_shards, names in chain.segments() if not over_shards)
    dataset = next(name for name in first if name in chain.stages)
    footers = chain.tables.footers(chain.nodes[dataset].parents["pairs"].name)
    pairs = {shard: (footer.content, footer.kept) for shard, footer in footers.items() if shard in inbox}
    policies = [lineage.recorded(chain.folder(name)) for name in first if chain.nodes[name].objective]
    if not policies:
        footer = chain.tables.footers(dataset).get(ALL)
        policies = [{"pairs": dict(footer.inputs)} if footer else None]
    return max(lineage.unseen(seen, pairs) for seen in policies)


def of(chains: Sequence[Chain], found: Mapping[str, Survey] | None = None) -> dict[str, Any]:
    """Jobs, schedules and sensors of these recipes, as `dg.Definitions` takes them. `found` is what is out of date in
    them by now; jobs show it."""
    shown = found or {}
    content, nights = [new_content(c) for c in chains], [nightly(c) for c in chains]
    jobs = [job(c, shown.get(c.name)) for job in (outdated.refresh, outdated.mark) for c in chains]
    return {
        "jobs": [*jobs, *(job for job, _ in content), *(job for job, _ in nights)],
        "sensors": [inbox, outdated.staleness_sensor(chains), *(sensor for _, sensor in content)],
        "schedules": [schedule for _, schedule in nights],
    }
