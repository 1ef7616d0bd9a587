"""The dataset as others read it: TRL-ready train and test files with a card, and the judge's rationales."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
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
    "chosen_cut_off",
    "rejected_cut_off",
)


def write_dataset(
    folder: str, frame: pl.DataFrame, *, recipe: str, fingerprint: str, funnel: Mapping[str, Counts]
) -> None:
    """train.parquet, test.parquet and README.md in `folder`: `load_dataset(folder)` and `trl dpo` take it as it is;
    `load_dataset(folder, "unpaired")` and `"reward"` give the same pairs as KTO and reward models want them.

    An empty split is written too, with the schema, so that a reader sees zero rows and not a missing file.
    """
    kept = frame.filter(pl.col("keep"))
    sizes = {}
    for split in ("train", "test"):
        rows = kept.filter(pl.col("split") == split).select(COLUMNS)
        sizes[split] = rows.height
        for view, derive in VIEWS.items():
            storage.write(storage.join(folder, *view.split(), f"{split}.parquet"), _parquet(derive(rows)))
    card = _card(recipe, fingerprint, sizes, funnel)
    storage.write(storage.join(folder, "README.md"), card.encode())


def unpaired(pairs: pl.DataFrame) -> pl.DataFrame:
    """One row per answer: prompt, completion and label, True for the chosen one. What TRL's KTO reads."""
    sides = [
        pairs.select(
            "prompt", "pair_id", "ugc_id", completion=side, label=pl.lit(side == "chosen"), cut_off=f"{side}_cut_off"
        )
        for side in ("chosen", "rejected")
    ]
    return pl.concat(sides).sort("pair_id", "label", descending=[False, True], maintain_order=True)


def reward_model(pairs: pl.DataFrame) -> pl.DataFrame:
    """Whole conversations, chosen and rejected, and the margin of their rewards. What TRL's reward trainer reads."""
    whole = {side: pl.concat_list("prompt", side) for side in ("chosen", "rejected")}
    return pairs.select("pair_id", "ugc_id", "margin", **whole)


VIEWS: Mapping[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "": lambda pairs: pairs,
    "unpaired": unpaired,
    "reward": reward_model,
}
"""The forms of the data set by subfolder; the first is the default."""


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
    configs = "\n".join(
        f"- config_name: {view or 'default'}\n  data_files:\n"
        + "\n".join(f"  - split: {s}\n    path: {view}{'/' * bool(view)}{s}.parquet" for s in ("train", "test"))
        for view in VIEWS
    )
    return f"""---
configs:
{configs}
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
`rejected` are conversational messages as TRL reads them; ids lead back to post, instruction and responses. Where
`chosen_cut_off` or `rejected_cut_off` is true the answer was cut off: no end of sequence belongs after it.
`load_dataset(path, "unpaired")` has one answer per row with a label, `load_dataset(path, "reward")` whole conversations
and the margin.

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
