"""What the stage assets share: a pass over the run's shards, handed to the IO manager as a stream."""

import contextlib
import time
import traceback
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from pugc_core import run
from pugc_core.config import digest
from pugc_core.engines import EngineHost
from pugc_core.errors import PugcError, StorageError, Unforeseen
from pugc_core.ledger.dispatch import Calls
from pugc_core.ledger.store import Ledger
from pugc_core.models.spec import Price
from pugc_core.plan import Chain
from pugc_core.progress import Reporter
from pugc_core.results import call_log
from pugc_core.stages import of_node
from pugc_core.stages.records import ALL
from pugc_core.stages.rewards import Rewards
from pugc_core.tables.checks import Checked, gate
from pugc_core.tables.pair_diff import PairDiff, compare
from pugc_core.tables.stage_run import Inputs, Made
from pugc_core.tables.staleness import survey
from pugc_core.tables.store import Footer, Loaded
from pugc_dagster.io import ShardStream
from pugc_dagster.keys import key, node_key
from pugc_dagster.partitions import EVERY_SHARDS_RUN, shards
from pugc_dagster.stages import checks, events, metadata

RUN_TAG = "pugc/run"
"""Shared by the Dagster runs that one command started; what they ask of models counts as one run."""
RECIPE_TAG = "pugc/recipe"
"""On runs that `pugc` and the sensors start."""
_TYPES = {
    "String": "string",
    "Boolean": "bool",
    "Int8": "int8",
    "Int32": "int32",
    "Int64": "int64",
    "Float64": "float64",
}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Backfill policies have been "beta" for two years, and each asset would say so at every start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*backfill_policy.*")
        yield


@_quietly()
def stage_asset(chain: Chain, name: str) -> dg.AssetsDefinition:
    """The asset of a node of `chain`, its owner, that has a table per shard."""
    recipe, stage, parents = chain.recipe, chain.stages[name], chain.nodes[name].parents

    @dg.asset(
        key=key(chain, name),
        ins={slot: dg.AssetIn(key=node_key(parents[slot])) for slot in stage.inputs},
        deps=[node_key(parent) for slot, parent in parents.items() if slot not in stage.inputs],
        description=stage.about,
        group_name=recipe.group,
        partitions_def=shards,
        backfill_policy=EVERY_SHARDS_RUN,
        code_version=digest(dict(stage.fingerprint)),
        io_manager_key="tables",
        required_resource_keys={"workspace", "ledger", "engines"},
        # One engine stage at a time per GPU; light stages need not wait.
        pool="gpu" if stage.role else None,
        kinds={"parquet"},
        metadata={
            "pugc/recipe": recipe.name,
            "pugc/node": name,
            "dagster/column_schema": column_schema(name),
            **({"model": recipe.model(stage.role).id} if stage.role else {}),
        },
        check_specs=checks.specs(key(chain, name), stage),
    )
    def asset(context: dg.AssetExecutionContext, **tables: Mapping[str, Loaded]) -> Any:
        names = context.partition_keys
        seen = Seen(chain, name)
        for slot in stage.inputs:
            gate(seen.checked(parents[slot].name, _footers(tables[slot]), made=[]))
        yield dg.Output(ShardStream(stream(context, seen, names, tables)))
        yield from seen.check_results()

    return asset


def _footers(tables: Mapping[str, Loaded]) -> dict[str, Footer]:
    found = {}
    for shard, table in tables.items():
        with contextlib.suppress(StorageError):  # the pass says of each shard what is missing
            found[shard] = table.footer
    return found


class Seen:
    """What a step saw go by: the footers of its shards, which of them it made, what changed, what it asked."""

    def __init__(self, chain: Chain, name: str) -> None:
        self.chain, self.name, self.stage = chain, name, chain.ready(name)
        self.footers: dict[str, Footer] = {}
        self.made: list[str] = []
        self.metadata: dict[str, dict[str, Any]] = {}
        self.samples: dict[str, Any] = {}
        self.change = PairDiff()
        self.earlier = call_log.Earlier()

    @property
    def price(self) -> Price:
        return self.chain.recipe.model(self.stage.role).price if self.stage.role else Price()

    def add(self, made: Made) -> None:
        """A shard that is about to be written."""
        name, tables = self.name, self.chain.tables
        self.footers[made.shard] = made.footer
        path = tables.path(name, made.shard)
        calls = made.calls if self.stage.role else None
        self.metadata[made.shard] = metadata.of_shard(path, made.footer, calls, self.price, reused=made.frame is None)
        if made.frame is None:
            return
        self.made.append(made.shard)
        self.samples = self.samples or metadata.sample(self.chain, name, made.frame)
        if self.stage.name == "pairs":
            with contextlib.suppress(StorageError):  # none before, or a damaged one
                self.change += compare(tables.read(name, made.shard), made.frame)

    def of_run(self, calls: Calls) -> dict[str, Any]:
        """Metadata that all shards of the run share, also with those of the run's earlier passes over this stage."""
        total = Calls()
        total.add(self.earlier.calls)
        total.add(calls)
        asked = total if self.stage.role else None
        footers = self.footers
        if self.earlier.shards:
            there = self.chain.tables.footers(self.name)
            footers = {shard: there[shard] for shard in self.earlier.shards if shard in there} | footers
        change = self.change if self.stage.name == "pairs" else None
        if not self.made and self.footers and self.stage.name != "dataset":  # show what is there
            with contextlib.suppress(StorageError):
                first = self.chain.tables.read(self.name, next(iter(self.footers)))
                self.samples = metadata.sample(self.chain, self.name, first)
        return metadata.of_run(self.chain, self.name, footers.values(), asked, self.price, change, self.samples)

    def checked(self, stage: str, footers: Mapping[str, Footer], made: Sequence[str]) -> Checked:
        """What checks look at: a stage's tables of this run."""
        rewards = self.chain.stages["rewards"]
        assert isinstance(rewards, Rewards)
        return Checked(self.chain.tables, stage, footers, made, self.chain.recipe.checks, len(rewards.draws))

    def check_results(self) -> Iterator[dg.AssetCheckResult]:
        name = self.name
        asset = key(self.chain, name)
        yield from checks.results(asset, self.checked(name, self.footers, made=self.made))
        yield from checks.of_survey(asset, name, survey(self.chain, to=name))


def stream(context: dg.AssetExecutionContext, seen: Seen, names: Sequence[str], inputs: Inputs) -> Generator[Made]:
    """The stage's shards as they are made, with their metadata; when it ends, however it ends, its calls are noted."""
    stage, chain, workspace = seen.stage, seen.chain, seen.chain.workspace
    ledger: Ledger = context.resources.ledger
    host: EngineHost = context.resources.engines
    reporter = Reporter(f"{chain.name} {seen.name}", context.log.info)
    work = run.tables(chain, seen.name, names, inputs, ledger=ledger, engines=host.engine, progress=reporter)
    page, run_id = workspace.calls(chain.name), context.run.tags.get(RUN_TAG, context.run.run_id)
    seen.earlier = call_log.earlier(page, run_id, seen.name)
    seen.change = seen.earlier.change
    begun = time.monotonic()
    written: list[str] = []
    asset = key(chain, seen.name)
    try:
        for made in work:
            seen.add(made)
            yield made
            written.append(made.shard)
        # Dagster records every shard of the run. Those that were passed over, for want of their inputs, say so.
        passed_over = {shard: {"failed": err.line} for shard, err in work.failed.items() if shard not in written}
        shown = {shard: seen.metadata[shard] for shard in written} | passed_over
        events.note(context, asset, {_partition(shard): about for shard, about in shown.items()})
        context.add_asset_metadata(seen.of_run(work.calls))
    except BaseException as err:  # also GeneratorExit, when a table could not be written
        if isinstance(err, PugcError):
            context.log.error(str(err))  # in the words that help, before Dagster wraps it
        # The tables of these are: say so, although the step fails.
        for shard in written:
            event = dg.AssetMaterialization(asset, partition=_partition(shard), metadata=seen.metadata[shard])
            context.log_event(event)
        raise
    finally:
        for shard, failure in work.failed.items():
            context.log.error(f"{seen.name} of shard {shard}: {failure}{_traceback(failure)}")
        ledger.flush()
        call_log.record(
            page,
            run_id,
            seen.name,
            stage.role or "",
            work.calls,
            shards=names,
            reused=len(written) - len(seen.made),
            seconds=time.monotonic() - begun,
            change=seen.change,
        )


def _traceback(failure: PugcError) -> str:
    """Of an error that nobody foresaw, for the log."""
    if not isinstance(failure, Unforeseen) or failure.__cause__ is None:
        return ""
    return "\n" + "".join(traceback.format_exception(failure.__cause__))


def _partition(shard: str) -> str | None:
    return None if shard == ALL else shard


def column_schema(stage: str) -> dg.TableSchema:
    """The table's columns with their meaning, as the web UI shows them."""
    table = of_node(stage).table
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name,
                _TYPES.get(str(column.dtype), str(column.dtype)),
                description=column.meaning,
                constraints=dg.TableColumnConstraints(unique=name == table.key),
            )
            for name, column in table.columns.items()
        ]
    )
