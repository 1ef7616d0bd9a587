"""Metadata per shard reaches the events: this fails when Dagster's private parts are no longer what they were."""

from typing import Any

import dagster as dg

from pugc_dagster.stages import events

SHARDS = dg.StaticPartitionsDefinition(["a", "b", "c"])
KEY = dg.AssetKey(["one", "two"])


@dg.asset(key=KEY, partitions_def=SHARDS, backfill_policy=dg.BackfillPolicy.single_run())
def partitioned(context: dg.AssetExecutionContext) -> None:
    context.add_asset_metadata({"all": 1})
    context.add_asset_metadata({"early": 2}, partition_key="a")
    events.note(context, KEY, {shard: {"shard": shard} for shard in ("a", "b")})


def test_metadata_of_shards_is_on_their_events_and_no_others() -> None:
    tags = {"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "c"}
    result = dg.materialize([partitioned], tags=tags)
    shown: dict[str | None, dict[str, Any]] = {}
    for event in result.asset_materializations_for_node("one__two"):
        shown[event.partition] = {name: value.value for name, value in event.metadata.items()}
    assert shown == {"a": {"all": 1, "early": 2, "shard": "a"}, "b": {"all": 1, "shard": "b"}, "c": {"all": 1}}
