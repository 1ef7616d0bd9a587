"""The pairs that train: read from the dataset folder, measured with the start model's tokenizer, too long ones dropped.

TRL 1.16 has no `max_prompt_length` and cuts what is too long at its end, which is the answer. So only pairs that fit
whole are trained on, and the others are counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from typing import Any, NamedTuple

import jinja2
import polars as pl

from pugc_core import storage
from pugc_core.errors import TrainingError
from pugc_core.prompts.base import neutralise

Pair = dict[str, list[dict[str, str]]]
_COLUMNS = ("prompt", "chosen", "rejected")


class Splits(NamedTuple):
    """The pairs of both splits, and a hash over their files."""

    train: list[Pair]
    test: list[Pair]
    content: str


class Pairs(NamedTuple):
    """One split after the drop."""

    kept: list[Pair]
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
    """The pairs in a file, chat-control strings in their text broken up."""
    try:
        frame = pl.read_parquet(io.BytesIO(raw))
    except (pl.exceptions.PolarsError, OSError) as err:
        raise TrainingError(f"cannot read {path}: {err}", fix="materialize the dataset again") from err
    missing = [c for c in _COLUMNS if c not in frame.columns]
    if missing:
        raise TrainingError(f"{path} has no column {', '.join(missing)}", fix="materialize the dataset again")
    if "keep" in frame.columns:
        frame = frame.filter(pl.col("keep"))
    return [
        {name: _plain(turns) for name, turns in row.items()} for row in frame.select(_COLUMNS).iter_rows(named=True)
    ]


def fitting(pairs: list[Pair], tokenizer: Any, max_length: int) -> Pairs:
    """The pairs whose prompt fits whole with either answer in `max_length` tokens."""
    kept: list[Pair] = []
    total = 0
    dropped: Counter[str] = Counter()
    for pair in pairs:
        chosen, rejected = (_length(tokenizer, pair["prompt"] + pair[side]) for side in ("chosen", "rejected"))
        if max(chosen, rejected) <= max_length:
            kept.append(pair)
            total += chosen + rejected
        elif _length(tokenizer, pair["prompt"]) >= max_length:
            dropped["prompt_too_long"] += 1
        else:
            dropped["pair_too_long"] += 1
    return Pairs(kept, total, dict(sorted(dropped.items())))


def _plain(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": neutralise(turn["content"])} for turn in turns]


def _length(tokenizer: Any, messages: list[dict[str, str]]) -> int:
    """Tokens of a conversation, with the begin and end tokens that TRL's CPO trainer adds where they are missing."""
    try:
        ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    except jinja2.TemplateError as err:
        roles = ", ".join(m["role"] for m in messages)
        raise TrainingError(
            f"the chat template refuses a conversation of {roles}: {err}",
            fix="use a responses prompt without a system text, or a start model whose template allows it",
        ) from err
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return len(ids) + int(bos is not None and ids[:1] != [bos]) + int(ids[-1:] != [eos])
