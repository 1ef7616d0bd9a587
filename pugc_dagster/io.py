"""Parquet IO managers. A stage hands over a stream of shards; each is written the moment it arrives.

The stream is why: an asset that returned a dict of tables would lose all of them to a crash in its last shard.
"""

import contextlib
from collections.abc import Generator, Mapping

import dagster as dg

from pugc_core.stages.records import ALL
from pugc_core.tables.stage_run import Made
from pugc_core.tables.store import Loaded
from pugc_core.tables.workspace import Workspace


class ShardStream:
    """Shards being made, as an object: Dagster would take a bare generator's items for events."""

    def __init__(self, made: Generator[Made]) -> None:
        self.made = made


class ShardTables(dg.ConfigurableIOManager):
    """Writes the shards of a stream as `<root>/tables/<recipe>/<stage>/<shard>.parquet`, and hands tables over as a
    mapping from shard to a table that is read when it is needed."""

    workspace: dg.ResourceDependency[Workspace]

    def handle_output(self, context: dg.OutputContext, obj: ShardStream) -> None:
        owner, _ = _node(context)
        with contextlib.closing(obj.made) as shards:  # a write that fails is told to the stage, which notes the rest
            for made in shards:
                if made.frame is not None:
                    self.workspace.store.write(owner, made.frame, made.footer)

    def load_input(self, context: dg.InputContext) -> Mapping[str, Loaded]:
        assert context.upstream_output is not None
        owner, name = _node(context.upstream_output)
        shards = context.asset_partition_keys if context.has_asset_partitions else [ALL]
        return {shard: Loaded(self.workspace.store, owner, name, shard) for shard in shards}


def _node(context: dg.OutputContext) -> tuple[str, str]:
    """The recipe that owns a node, and the node's name."""
    metadata = context.definition_metadata or {}
    return str(metadata["pugc/recipe"]), str(metadata["pugc/node"])
