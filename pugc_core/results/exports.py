"""The dataset as others read it: TRL-ready train and test files with a card, and the judge's rationales."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import polars as pl

from pugc_core import storage
from pugc_core.prompts.base import Prompt
from pugc_core.results.dataset_card import SPLITS, DatasetCard
from pugc_core.results.licences import licences
from pugc_core.stages.records import ORIGIN, Counts
from pugc_core.tables.shard_states import States

COLUMNS = (
    "prompt",
    "chosen",
    "rejected",
    "pair_id",
    "instruction_id",
    "ugc_id",
    "shard",
    "group",
    *ORIGIN,
    "chosen_reward",
    "rejected_reward",
    "margin",
    "chosen_cut_off",
    "rejected_cut_off",
)


def write_dataset(
    folder: str,
    frame: pl.DataFrame,
    *,
    recipe: str,
    fingerprint: str,
    funnel: Mapping[str, Counts],
    states: States,
    wordings: Iterable[Prompt] = (),
) -> None:
    """train.parquet, test.parquet and README.md in `folder`: `load_dataset(folder)` and `trl dpo` take it as it is;
    `load_dataset(folder, "unpaired")` and `"reward"` give the same pairs as KTO and reward models want them.

    An empty split is written too, with the schema, so that a reader sees zero rows and not a missing file.
    """
    kept = frame.filter(pl.col("keep"))
    sizes = {}
    for split in SPLITS:
        rows = kept.filter(pl.col("split") == split).select(COLUMNS)
        sizes[split] = rows.height
        for view, derive in VIEWS.items():
            storage.write(storage.join(folder, *view.split(), f"{split}.parquet"), _parquet(derive(rows)))
    card = DatasetCard(
        recipe,
        fingerprint,
        sizes,
        dict(kept.group_by("group").len().iter_rows()),
        licences(frame),
        funnel,
        states,
        tuple(VIEWS),
        tuple(wordings),
    )
    storage.write(storage.join(folder, "README.md"), card.render().encode())


def unpaired(pairs: pl.DataFrame) -> pl.DataFrame:
    """One row per answer: prompt, completion and label, True for the chosen one. What TRL's KTO reads."""
    sides = [
        pairs.select(
            *("prompt", "pair_id", "ugc_id", *ORIGIN),
            completion=side,
            label=pl.lit(side == "chosen"),
            cut_off=f"{side}_cut_off",
        )
        for side in ("chosen", "rejected")
    ]
    return pl.concat(sides).sort("pair_id", "label", descending=[False, True], maintain_order=True)


def reward_model(pairs: pl.DataFrame) -> pl.DataFrame:
    """Whole conversations, chosen and rejected, and the margin of their rewards. What TRL's reward trainer reads."""
    whole = {side: pl.concat_list("prompt", side) for side in ("chosen", "rejected")}
    return pairs.select("pair_id", "ugc_id", "margin", *ORIGIN, **whole)


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


SUFFIXES = (".jsonl", ".parquet")


def export(frame: pl.DataFrame, path: Path) -> int:
    """Write a frame as JSON lines or Parquet, by the path's suffix (one of SUFFIXES). Returns its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path, compression="zstd")
    return frame.height
