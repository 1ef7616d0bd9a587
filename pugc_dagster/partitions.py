"""A partition is a shard: one source file of hundreds to thousands of posts, shared by all recipes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import dagster as dg

shards = dg.DynamicPartitionsDefinition(name="ugc_shards")
SHARDS_PER_RUN = 64
EVERY_SHARDS_RUN = dg.BackfillPolicy.multi_run(max_partitions_per_run=SHARDS_PER_RUN)
"""A backfill is a few runs over many shards; a stage loads its model once per run."""


def partitions_name() -> str:
    assert shards.name is not None
    return shards.name


BRIDGE = 50
"""Shards that are passed through rather than beginning another run, which costs seconds and may load a model."""


def stretches(
    known: Sequence[str], wanted: Iterable[str], most: int = 0, bridges: Collection[str] = ()
) -> Iterator[list[str]]:
    """The wanted shards in stretches of the order in which partitions were added: a Dagster run covers one. As few as
    cover them, and with `most` none longer than that. Up to BRIDGE shards in a row that are among `bridges` may lie
    between two wanted ones."""
    chosen, stretch, passed = set(wanted), list[str](), list[str]()
    for shard in known:
        if shard in chosen:
            if len(stretch) == most > 0:
                yield stretch
                stretch, passed = [], []
            stretch += [*passed, shard] if stretch else [shard]
            passed = []
        elif stretch and shard in bridges and len(passed) < BRIDGE:
            passed.append(shard)
        elif stretch:
            yield stretch
            stretch, passed = [], []
    if stretch:
        yield stretch
