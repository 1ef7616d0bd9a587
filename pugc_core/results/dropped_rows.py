"""What a recipe's stages left out, row by row with reason and text: for reading, so a sample where there is much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import polars as pl

from pugc_core.errors import StorageError
from pugc_core.stages import of_node
from pugc_core.stages.records import ALL
from pugc_core.tables.store import Tables


def sample(tables: Tables, shards: Iterable[str], each: int) -> list[dict[str, Any]]:
    """Dropped rows as stage, shard, reason, id, text and note; up to `each` of every stage and reason, and so every
    reason that occurs. Tables are read only as far as that needs."""
    wanted = set(shards)
    found: list[dict[str, Any]] = []
    for stage in tables.names:
        taken: Counter[str] = Counter()
        for shard, footer in tables.footers(stage).items():
            there = shard in wanted or shard == ALL
            if there and any(taken[reason] < each for reason, count in footer.dropped.items() if count):
                for row in _rows(tables, stage, shard):
                    taken[row["reason"]] += 1
                    if taken[row["reason"]] <= each:
                        found.append(row)
    return found


def _rows(tables: Tables, stage: str, shard: str) -> list[dict[str, Any]]:
    shown = of_node(stage).dropped
    try:
        frame = tables.read(stage, shard).filter(~pl.col("keep"))
        if shown.table and shown.by:
            texts = tables.read(shown.table, shard).select(shown.by, shown.text)
            frame = frame.join(texts.unique(shown.by, keep="first"), on=shown.by, how="left", maintain_order="left")
    except StorageError:
        return []  # changed under our hands, or of a shard that is gone
    return [
        {
            "stage": stage,
            "shard": row.get("shard") or shard,
            "reason": row["drop_reason"],
            "id": row[of_node(stage).table.key],
            "text": _text(row[shown.text]),
            "note": _text(row[shown.note]) if shown.note else "",
        }
        for row in frame.iter_rows(named=True)
    ]


def _text(value: Any) -> str:
    """A text, or of a conversation its last turn."""
    return str(value[-1]["content"]) if isinstance(value, list) and value else str(value or "")
