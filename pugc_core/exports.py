"""The dataset as others read it: TRL-ready train and test files with a card, and the judge's rationales."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pugc_core import storage
from pugc_core.records import Counts

COLUMNS = (
    "prompt",
    "chosen",
    "rejected",
    "pair_id",
    "instruction_id",
    "ugc_id",
    "shard",
    "chosen_reward",
    "rejected_reward",
    "margin",
)


def write_dataset(
    folder: str, frame: pl.DataFrame, *, recipe: str, fingerprint: str, funnel: Mapping[str, Counts]
) -> None:
    """train.parquet, test.parquet and README.md in `folder`: `load_dataset(folder)` and `trl dpo` take it as it is.

    An empty split is written too, with the schema, so that a reader sees zero rows and not a missing file.
    """
    kept = frame.filter(pl.col("keep"))
    sizes = {}
    for split in ("train", "test"):
        rows = kept.filter(pl.col("split") == split).select(COLUMNS)
        sizes[split] = rows.height
        storage.write(storage.join(folder, f"{split}.parquet"), _parquet(rows))
    card = _card(recipe, fingerprint, sizes, funnel)
    storage.write(storage.join(folder, "README.md"), card.encode())


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", use_pyarrow=True)
    return buffer.getvalue()


def _card(recipe: str, fingerprint: str, sizes: Mapping[str, int], funnel: Mapping[str, Counts]) -> str:
    lines = [
        f"| {stage} | {c.rows_in} | {c.kept} | {', '.join(f'{r} {n}' for r, n in c.dropped.items()) or '-'} |"
        for stage, c in funnel.items()
    ]
    table = "\n".join(lines)
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
  - split: test
    path: test.parquet
task_categories:
- text-generation
tags:
- preference
- pugc
---

# Preference pairs from user-generated content, recipe `{recipe}`

{sizes["train"]} pairs to train on, {sizes["test"]} held out (split by post). Fingerprint `{fingerprint}`.

Made as in "Aligning Large Language Models with Implicit Preferences from User-Generated Content" (arXiv 2506.04463):
a post is read for the question it answers, a policy answers the question several times, and a judge scores the answers
with the post as reference; the best and the worst form a pair. Nobody labelled anything. `prompt`, `chosen` and
`rejected` are conversational messages as TRL reads them; ids lead back to post, instruction and responses.

| stage | in | kept | dropped |
|---|---|---|---|
{table}
"""


SUFFIXES = (".jsonl", ".parquet")


def export(frame: pl.DataFrame, path: Path) -> int:
    """Write a frame as JSON lines or Parquet, by the path's suffix (one of SUFFIXES). Returns its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path, compression="zstd")
    return frame.height
