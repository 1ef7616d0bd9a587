"""Runs started from the terminal: the same assets, recorded in the same Dagster instance as those of the web UI."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError, DagsterExecutionInterruptedError
from dagster._core.storage.tags import (  # the tags that the backfill daemon itself gives a run over a range
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from pugc_core import storage
from pugc_core.errors import CheckFailed, PugcError, SourceError
from pugc_core.plan import Chain
from pugc_core.stages import REPORT
from pugc_core.tables import intake, staleness
from pugc_core.tables.staleness import Survey
from pugc_core.tables.workspace import Workspace
from pugc_dagster import assets, project
from pugc_dagster.keys import key
from pugc_dagster.partitions import partitions_name, stretches
from pugc_dagster.runs import finished, history, recorded
from pugc_dagster.stages.base import RECIPE_TAG, RUN_TAG

log = logging.getLogger("pugc")


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """The project's Dagster instance. Paths in dagster.yaml count from the project's folder, so we go there.

    An interrupt leaves it as KeyboardInterrupt, so that nobody needs to import Dagster to catch it.
    """
    root = project.root()
    os.chdir(root)
    os.environ["DAGSTER_HOME"] = str(root)
    with history.opened(root) as found:
        try:
            yield found
        except DagsterExecutionInterruptedError as err:
            raise KeyboardInterrupt from err


def ingest(
    found: dg.DagsterInstance,
    workspace: Workspace,
    files: Sequence[str],
    *,
    rows: int | None = None,
    replace: bool = False,
) -> dict[str, str]:
    """Take files into the inbox (`intake.take`) and add their shards as partitions. Returns the inbox path by shard."""
    taken = intake.take(workspace, files, rows=rows, replace=replace)
    if taken:
        found.add_dynamic_partitions(partitions_name(), list(taken))
    return taken


def workspace() -> Workspace:
    """The project's."""
    return Workspace(project.data_root())


def run(found: dg.DagsterInstance, chain: Chain, names: Sequence[str] = (), to: str | None = None) -> None:
    """Materialize the recipe's chain for the shards `names` (all, when empty), up to the stage `to` (all, when None).

    Raises SourceError when there is no shard to run, RecipeError for an unknown stage, and what the stages raise.
    """
    if to is not None:
        chain.must_have(to)
    stages = [*chain.up_to(to), *([REPORT] if to in (None, REPORT) else [])]
    inbox = chain.workspace.shards()
    _must_be_there(names, inbox)
    if not inbox:
        raise SourceError(
            f"there is no shard in {chain.workspace.inbox}", fix="pugc ingest FILE (jsonl, csv, parquet or xml)"
        )
    found.add_dynamic_partitions(partitions_name(), sorted(inbox))
    for retired in set(found.get_dynamic_partitions(partitions_name())) - inbox.keys():
        found.delete_dynamic_partition(partitions_name(), retired)  # its file is gone
    _run(found, chain, stages, set(names or inbox), {})
    finished.note(chain, names or inbox, to)


def _must_be_there(names: Iterable[str], inbox: Collection[str]) -> None:
    if missing := [name for name in names if name not in inbox]:
        known = ", ".join(sorted(inbox)) or "none"
        raise SourceError(f"no shard {', '.join(missing)}; there are: {known}", fix="pugc ingest FILE")


def refresh(
    found: dg.DagsterInstance,
    chain: Chain,
    names: Collection[str] = (),
    *,
    note: Callable[[str], object] = lambda line: None,
    parent: str | None = None,
) -> Survey:
    """Make again every table of the recipe that is there and out of date, with all that follows from it.

    Shards that were begun and not finished are finished, as far as others are; those never begun, a data set and
    policies never made are left alone. With `names`, only these shards; while others are out of date, data set and
    policies wait for them. Returns what was found before. `note` is told what is run, and the runs carry the run
    `parent` in their tags. Raises what the stages raise; what is done by then stays done.
    """
    _must_be_there(names, chain.workspace.shards())
    before = staleness.survey(chain)
    stages, shards = staleness.to_refresh(before, chain.sharded)
    rest = [name for name in before.stages if name not in chain.sharded and before.made[name]]
    if left := [shard for shard in shards if names and shard not in names]:
        note(f"{len(left)} more shards are out of date and left as they are: {', '.join(left[:10])}")
        shards, rest = [shard for shard in shards if shard in names], []
    if not shards:
        rest = [name for name in rest if before.outdated(name)]
    if not shards and not rest:
        note("nothing to make again" if left else "everything is up to date")
        return before
    found.add_dynamic_partitions(partitions_name(), sorted(chain.workspace.shards()))
    if not left and storage.exists(chain.report):
        rest.append("report")
    if shards:
        note("this run only waits; how far the work is stands in the runs tagged pugc/refresh with this run's id")
        note(f"{', '.join(stages)} for {len(shards)} shards: {', '.join(shards[:10])}{' ...' if shards[10:] else ''}")
    if rest:
        note(f"then {', '.join(rest)}")
    # Shards between them that are up to date may be passed through: a table that is there costs next to nothing.
    current = {s for s in chain.workspace.shards() if not any(s in before.stages[stage] for stage in chain.sharded)}
    tags = {"pugc/refresh": parent} if parent else {}
    _run(found, chain, [*stages, *rest], set(shards), tags, bridges=current)
    return before


def _run(
    found: dg.DagsterInstance,
    chain: Chain,
    stages: Sequence[str],
    wanted: set[str],
    tags: Mapping[str, str],
    bridges: Collection[str] = (),
) -> None:
    """The nodes `stages` in their order: those with shards over the shards `wanted`, the others once."""
    finished.forget(chain.name)
    known = list(found.get_dynamic_partitions(partitions_name()))
    tags = {**tags, RUN_TAG: uuid.uuid4().hex[:12], RECIPE_TAG: chain.name}
    segments = [(over, chosen) for over, names in chain.segments() if (chosen := [n for n in names if n in stages])]
    if REPORT in stages:  # with what is made of all shards, where there is any
        last = segments.pop()[1] if segments and not segments[-1][0] else []
        segments.append((False, [*last, REPORT]))
    for over_shards, names in segments:
        if not over_shards:
            _execute(found, chain, names, dict(tags))
            continue
        failure: PugcError | None = None
        for stretch in stretches(known, wanted, bridges=bridges):
            ends = {ASSET_PARTITION_RANGE_START_TAG: stretch[0], ASSET_PARTITION_RANGE_END_TAG: stretch[-1]}
            try:
                _execute(found, chain, names, {**tags, **ends})
            except PugcError as err:
                failure = failure or err
        if failure is not None:
            raise failure
        footers = [chain.tables.footers(name) for name in names]
        failed = {shard for there in footers for shard, footer in there.items() if footer.failed}
        if wanted and wanted <= failed:  # of nothing but failures nothing more is made
            return


def _execute(found: dg.DagsterInstance, chain: Chain, names: Sequence[str], tags: dict[str, str]) -> None:
    """One run of these nodes."""
    defs = dg.Definitions(assets.of([chain]), resources=assets.resources(), executor=dg.in_process_executor)
    selection = [key(chain, name) for name in names]
    try:
        recorded.execute(
            found,
            defs.resolve_implicit_global_asset_job_def(),
            selection,
            {**tags, history.PROCESS_TAG: history.this_process()},
            # The terminal has bars, and the web UI has the log.
            {"loggers": {"console": {"config": {"log_level": os.environ.get("PUGC_LOG", "CRITICAL")}}}},
        )
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        history.cancel(found, {**tags, history.PROCESS_TAG: history.this_process()})
        raise
    except Exception as err:
        raise _cause(err) or _blocked(found, err) or err from err


def _blocked(found: dg.DagsterInstance, err: Exception) -> PugcError | None:
    """The blocking checks that stopped a run, with what they found."""
    if not isinstance(err, DagsterAssetCheckFailedError):
        return None
    said = []
    for line in str(err).splitlines()[1:]:
        asset, _, names = line.partition(": ")
        for name in names.split(","):
            key = dg.AssetCheckKey(dg.AssetKey.from_user_string(asset), name)
            records = found.event_log_storage.get_asset_check_execution_history(key, limit=1)
            event = records[0].event if records else None
            result = event.asset_check_evaluation if event else None
            said.append(f"{asset}: {name}: {result.description if result else 'failed'}")
    return CheckFailed(
        "; ".join(said), fix="read those rows; mend the prompt, or change the threshold in the recipe's [checks]"
    )


def _cause(err: BaseException | None) -> PugcError | None:
    """What a stage raised, out of what Dagster wrapped it in."""
    seen = set()
    while err is not None and not isinstance(err, PugcError) and id(err) not in seen:
        seen.add(id(err))  # what was raised again in its own handling stands in a circle
        err = err.__cause__ or err.__context__
    return err if isinstance(err, PugcError) else None
