"""A partition is a shard: one source file of hundreds to thousands of posts, shared by all recipes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

# Backfill policies have been "beta" for two years and each asset would say so at every start.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*backfill_policy.*")

shards = dg.DynamicPartitionsDefinition(name="ugc_shards")
SHARDS_PER_RUN = 64
EVERY_SHARDS_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=SHARDS_PER_RUN)
"""A backfill is a few runs over many shards; a stage loads its model once per run."""


def partitions_name() -> str:
    assert shards.name is not None
    return shards.name


def stretches(known: Sequence[str], wanted: Iterable[str], most: int = 0) -> Iterator[list[str]]:
    """The wanted shards in stretches of the order in which partitions were added: a Dagster run covers one. As few as
    cover them, and with `most` none longer than that."""
    chosen, stretch = set(wanted), list[str]()
    for shard in known:
        if stretch and (shard not in chosen or len(stretch) == most):
            yield stretch
            stretch = []
        if shard in chosen:
            stretch.append(shard)
    if stretch:
        yield stretch
