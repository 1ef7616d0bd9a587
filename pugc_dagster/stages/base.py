"""What the stage assets share: a pass over the run's shards, handed to the IO manager as a stream."""

import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import dagster as dg

from pugc_core import runs
from pugc_core.config import digest
from pugc_core.engines import EngineHost
from pugc_core.ledger import Ledger
from pugc_core.pipeline import Inputs, Made, Pass
from pugc_core.progress import Reporter
from pugc_core.recipe import Recipe
from pugc_core.records import TABLES
from pugc_core.stages.base import Stage
from pugc_core.stages.dataset import ALL
from pugc_core.tables import Loaded
from pugc_core.workspace import Workspace
from pugc_dagster.io import ShardStream, table_metadata
from pugc_dagster.partitions import EVERY_SHARDS_RUN, shards

RUN_TAG = "pugc/run"
"""Shared by the Dagster runs that one command started; what they ask of models counts as one run."""
_TYPES = {
    "String": "string",
    "Boolean": "bool",
    "Int8": "int8",
    "Int32": "int32",
    "Int64": "int64",
    "Float64": "float64",
}


def key(recipe: Recipe, *path: str) -> dg.AssetKey:
    """An asset's key: the recipe's group, then the stage."""
    return dg.AssetKey([recipe.group, *path])


def stage_asset(recipe: Recipe, stage: Stage, sentence: str, *, kinds: Sequence[str] = ()) -> dg.AssetsDefinition:
    """The asset of a partitioned stage. `sentence` says in the users' words what it is; the web UI shows it."""

    @dg.asset(
        key=key(recipe, stage.name),
        ins={name: dg.AssetIn(key=key(recipe, name)) for name in stage.inputs},
        description=sentence,
        group_name=recipe.group,
        partitions_def=shards,
        backfill_policy=EVERY_SHARDS_RUN,
        code_version=digest(dict(stage.fingerprint)),
        io_manager_key="tables",
        required_resource_keys={"workspace", "ledger", "engines"},
        # One engine stage at a time per GPU; light stages need not wait.
        pool="gpu" if stage.role else None,
        kinds={"parquet", *kinds},
        metadata={
            "pugc/recipe": recipe.name,
            "dagster/column_schema": column_schema(stage.name),
            **({"model": recipe.model(stage.role).id} if stage.role else {}),
        },
    )
    def asset(context: dg.AssetExecutionContext, **tables: Mapping[str, Loaded]) -> ShardStream:
        return ShardStream(stream(context, recipe, stage, context.partition_keys, tables))

    return asset


def stream(
    context: dg.AssetExecutionContext, recipe: Recipe, stage: Stage, names: Sequence[str], inputs: Inputs
) -> Generator[Made]:
    """The stage's shards as they are made, with their metadata; when it ends, however it ends, its calls are noted."""
    workspace: Workspace = context.resources.workspace
    ledger: Ledger = context.resources.ledger
    host: EngineHost = context.resources.engines
    work = Pass(
        stage,
        recipe.name,
        names,
        inputs,
        store=workspace.store,
        ledger=ledger,
        engine=lambda: host.engine(recipe.model(stage.role or "policy")),
        path_of=workspace.source,
        source_hashes=workspace.source_hashes() if stage.name == "ugc" else {},
        progress=Reporter(f"{recipe.name} {stage.name}", context.log.info),
    )
    begun = time.monotonic()
    finished: dict[str, dict[str, Any]] = {}
    try:
        for made in work:
            path = workspace.store.path(recipe.name, stage.name, made.shard)
            metadata = dict(table_metadata(path, made.footer, made.calls if stage.role else None, made.frame is None))
            yield made
            finished[made.shard] = metadata
            context.add_asset_metadata(metadata, partition_key=_partition(made.shard))
    except BaseException:  # also GeneratorExit, when a table could not be written
        # The tables of these are: say so, although the step fails.
        for shard, metadata in finished.items():
            context.log_event(
                dg.AssetMaterialization(key(recipe, stage.name), partition=_partition(shard), metadata=metadata)
            )
        raise
    finally:
        ledger.flush()
        runs.record(
            workspace.calls(recipe.name),
            context.run.tags.get(RUN_TAG, context.run.run_id),
            stage.name,
            stage.role or "",
            work.calls,
            shards=len(names),
            reused=sum(bool(metadata["reused"].value) for metadata in finished.values()),
            seconds=time.monotonic() - begun,
        )


def _partition(shard: str) -> str | None:
    return None if shard == ALL else shard


def column_schema(stage: str) -> dg.TableSchema:
    """The table's columns with their meaning, as the web UI shows them."""
    table = TABLES[stage]
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
