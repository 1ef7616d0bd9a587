"""The pairs that train: read from the dataset folder, turned into tokens, too long ones dropped.

TRL 1.16 has no `max_prompt_length` and cuts what is too long at its end, which is the answer. So only pairs that fit
whole are trained on, and the others are counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from typing import Any, NamedTuple

import polars as pl

from pugc_core import storage
from pugc_core.errors import TrainingError
from pugc_core.training.tokens import Ids, Pair, pair_ids

_COLUMNS = ("prompt", "chosen", "rejected")
_CUT_OFF = ("chosen_cut_off", "rejected_cut_off")


class Splits(NamedTuple):
    """The pairs of both splits, and a hash over their files."""

    train: list[Pair]
    test: list[Pair]
    content: str


class Pairs(NamedTuple):
    """One split after the drop, in tokens."""

    kept: list[dict[str, Ids]]
    """Rows of prompt_ids, chosen_ids and rejected_ids."""
    tokens: int
    """Tokens of the kept pairs, the prompt counted with both answers."""
    dropped: dict[str, int]


def read(dataset: str) -> Splits:
    """The data set in a folder; a split that has no file is empty."""
    files = {split: storage.join(dataset, f"{split}.parquet") for split in ("train", "test")}
    raw: dict[str, bytes] = {}
    for split, path in files.items():
        with contextlib.suppress(FileNotFoundError):
            raw[split] = storage.read(path)
    train, test = (_pairs(path, raw[split]) if split in raw else [] for split, path in files.items())
    return Splits(train, test, hashlib.sha256(b"".join(raw.values())).hexdigest())


def _pairs(path: str, raw: bytes) -> list[Pair]:
    """The pairs in a file. Data sets from before there were the columns `*_cut_off` count as never cut off."""
    try:
        frame = pl.read_parquet(io.BytesIO(raw))
    except (pl.exceptions.PolarsError, OSError) as err:
        raise TrainingError(f"cannot read {path}: {err}", fix="materialize the dataset again") from err
    missing = [c for c in _COLUMNS if c not in frame.columns]
    if missing:
        raise TrainingError(f"{path} has no column {', '.join(missing)}", fix="materialize the dataset again")
    if "keep" in frame.columns:
        frame = frame.filter(pl.col("keep"))
    cut_off = [pl.col(c).fill_null(False) if c in frame.columns else pl.lit(False).alias(c) for c in _CUT_OFF]
    return [Pair(*row) for row in frame.select(*_COLUMNS, *cut_off).iter_rows()]


def fitting(pairs: list[Pair], tokenizer: Any, max_length: int, end: int, system_role: bool | None = None) -> Pairs:
    """The pairs whose prompt fits whole with either answer in `max_length` tokens; `end` is the token that answers end
    on, see tokens.end_of_turn; `system_role` is the model's (models.ModelSpec)."""
    kept: list[dict[str, Ids]] = []
    total = 0
    dropped: Counter[str] = Counter()
    for pair in pairs:
        row = pair_ids(pair, tokenizer, end, system_role)
        prompt, chosen, rejected = (len(ids) for ids in row.values())
        if prompt + max(chosen, rejected) <= max_length:
            kept.append(row)
            total += 2 * prompt + chosen + rejected
        elif prompt >= max_length:
            dropped["prompt_too_long"] += 1
        else:
            dropped["pair_too_long"] += 1
    return Pairs(kept, total, dict(sorted(dropped.items())))
