"""Metadata per shard, in one go. The one place that reaches deep into Dagster's private parts.

`context.add_asset_metadata(..., partition_key=...)` reads all partition keys and copies what it has at every call: with
500 shards that was a quarter of a run's time, and it grows with their square. Dagster is pinned below 1.14, and
`tests/dagster/test_events.py` fails when this no longer reaches the events.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator


def note(context: dg.AssetExecutionContext, key: dg.AssetKey, metadata: Mapping[str | None, Mapping[str, Any]]) -> None:
    """Put metadata on the events that this step will record for its partitions; None is the asset without any."""
    step: Any = context._step_execution_context
    noted: dict[Any, Mapping[str, Any]] = dict(step._metadata_accumulator.per_output_metadata)
    for name, shown in metadata.items():
        handle = AssetMetadataHandle(asset_key=key, partition_key=name)
        noted[handle] = {**noted.get(handle, {}), **shown}
    step._metadata_accumulator = OutputMetadataAccumulator(per_output_metadata=noted)
