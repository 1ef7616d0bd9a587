"""A data set, small trainings, and the trainer that a loss builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pugc_core.stages import STAGES
from pugc_core.training.config import TrainingConfig
from pugc_core.training.losses.base import Setup
from pugc_core.training.summary import Summary

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OBJECTIVES = TrainingConfig.losses()
SMALL = TrainingConfig(
    batch_size=4,
    device_batch_size=2,
    max_length=96,
    epochs=3,
    **{name: {"learning_rate": 5e-3, "beta": 0.1} for name in OBJECTIVES if name != "simpo"},
    simpo={"learning_rate": 5e-3, "beta": 2.0, "gamma_beta_ratio": 0.5},
)
"""Large steps, so that a few of them show; no paper's numbers."""


def pairs(n: int, *, answer: str = "Warm water, slowly.") -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"How do I wash wool {i}?"}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": "zzz no idea"}],
        }
        for i in range(n)
    ]


def dataset(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]] | None = None) -> str:
    """The folder that the dataset stage's asset writes: both splits in the columns of STAGES["dataset"].table."""
    folder.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("test", test or [])):
        blank = dict.fromkeys(STAGES["dataset"].table.schema)
        frame = STAGES["dataset"].table.frame(
            [
                {**blank, **row, "pair_id": f"{split}{i}", "split": split, "keep": True, "drop_reason": None}
                for i, row in enumerate(rows)
            ]
        )
        frame.write_parquet(folder / f"{split}.parquet")
    return str(folder)


def train(
    data: str,
    start: str,
    out: Path,
    objective: str = "dpo",
    config: TrainingConfig = SMALL,
    said: list[str] | None = None,
) -> Summary:
    """Train in this process; what it says beside its steps goes into `said`."""
    from pugc_core.training.trainer import train

    say = [].append if said is None else said.append
    spec: dict[str, Any] = {"dataset": data, "start": start, "objective": objective, "out": str(out)}
    return train(**spec, config=config, report=lambda _: None, say=say)


def trl_trainer(
    objective: str,
    config: TrainingConfig,
    start: str,
    out: Path,
    rows: list[dict[str, Any]] | None = None,
    held_out: list[dict[str, Any]] | None = None,
) -> Any:
    """The TRL trainer that our loss builds for these pairs (one by default), not yet started."""
    from datasets import Dataset

    from pugc_core.training.data import fitting
    from pugc_core.training.start import load_model, load_tokenizer, stops
    from pugc_core.training.tokens import Pair, end_of_turn
    from pugc_core.training.trainer import _arguments, _prepare_libraries

    _prepare_libraries()
    tokenizer = load_tokenizer(start)
    end = end_of_turn(tokenizer, stops(start, tokenizer))
    splits = [
        fitting([Pair(**row) for row in rows], tokenizer, config.max_length, end).kept
        for rows in (rows or pairs(1), held_out or [])
    ]
    return config.loss(objective).trainer(
        Setup(
            arguments=_arguments(config, out, 1, device="cpu", precision="fp32"),
            model=load_model(start).float(),
            tokenizer=tokenizer,
            train=Dataset.from_list(splits[0]),
            test=Dataset.from_list(splits[1]) if splits[1] else None,
            callbacks=[],
        )
    )
