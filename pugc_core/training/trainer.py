"""Training itself, in this process and on one device. Callers that outlive a training take `run.run` instead.

On a CPU the same call gives the same weights, bit for bit (same number of threads).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pugc_core.errors import MissingDependency, TrainingError
from pugc_core.training import data
from pugc_core.training.config import TrainingConfig
from pugc_core.training.losses import find
from pugc_core.training.output import RECORD, staging
from pugc_core.training.start import load_model, load_tokenizer
from pugc_core.training.summary import Report, Summary

if TYPE_CHECKING:
    from pugc_core.training.callbacks import Watch

_VERSIONS = ("trl", "transformers", "torch", "accelerate", "datasets")


def train(*, dataset: str, start: str, objective: str, config: TrainingConfig, out: str, report: Report) -> Summary:
    """Train the policy `start` on the folder `dataset` (train.parquet, test.parquet) and write it to the folder `out`.

    `start` is a local Hugging Face folder or a hub id, with "@revision" where one is meant. What is written is an
    ordinary Hugging Face folder in the start model's own dtype, with a record of the training in training.json.
    Raises RecipeError for an unknown objective, ModelNotFound, MissingDependency, and TrainingError for the rest.
    """
    began = time.monotonic()
    loss = find(objective)
    _prepare_libraries()
    import torch
    from transformers import PrinterCallback, set_seed

    from pugc_core.training.callbacks import DIVERGED, Watch

    pairs = data.read(dataset, "train")
    if not pairs:
        raise TrainingError(
            f"no pairs to train on in {dataset}/train.parquet",
            fix="ingest more posts, or look at the drop reasons of the pairs stage (`pugc status`)",
        )
    with staging(out) as folder:
        set_seed(config.seed)
        tokenizer = load_tokenizer(start)
        kept = data.fitting(pairs, tokenizer, config.max_length)
        held_out = data.fitting(data.read(dataset, "test"), tokenizer, config.max_length)
        if not kept.kept:
            raise TrainingError(
                f"none of the {len(pairs)} training pairs fits whole in max_length {config.max_length} tokens",
                fix="raise training.max_length, or lower the responses' max_tokens",
            )
        model = load_model(start)
        disk_dtype, use_cache = model.dtype, model.config.use_cache
        model.to(torch.float32)
        device, precision, notes = _arithmetic(config)
        per_epoch = math.ceil(math.ceil(len(kept.kept) / config.device_batch_size) / config.accumulation())
        total = config.max_steps or math.ceil(per_epoch * config.epochs)
        watch = Watch(report)
        try:
            trainer = loss.trainer(
                config.loss(objective),
                arguments=_arguments(config, folder, total, device=device, precision=precision),
                model=model,
                tokenizer=tokenizer,
                train=_rows(kept.kept),
                test=_rows(held_out.kept) if held_out.kept else None,
                callbacks=[watch],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            tested = trainer.evaluate() if held_out.kept else {}
        except torch.OutOfMemoryError as err:
            raise TrainingError(
                f"out of memory: {str(err).splitlines()[0]}",
                fix="lower training.device_batch_size or training.max_length, and keep gradient_checkpointing on",
            ) from err
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            raise TrainingError(
                f"the weights are no finite numbers after step {trainer.state.global_step}", fix=DIVERGED
            )
        # The trainer switches the cache off in the configuration; left so, every engine would generate slowly.
        model.config.use_cache = use_cache
        _save(model.to(disk_dtype), tokenizer, folder)
        steps = trainer.state.global_step
        dropped = {r: kept.dropped.get(r, 0) + held_out.dropped.get(r, 0) for r in {**kept.dropped, **held_out.dropped}}
        passes, rest = divmod(steps, per_epoch)
        summary = Summary(
            objective=objective,
            steps=steps,
            n_train=len(kept.kept),
            n_test=len(held_out.kept),
            dropped_too_long=sum(dropped.values()),
            dropped=dropped,
            pairs_trained=passes * len(kept.kept) + rest * config.batch_size,
            tokens_per_epoch=kept.tokens,
            seconds=round(time.monotonic() - began, 2),
            final=_final(watch, tested, per_epoch),
            curve=watch.curve,
            device=device,
            precision=precision,
            notes=notes,
        )
        _record(folder, summary, dataset=dataset, start=start, config=config, dtype=str(disk_dtype))
    return summary


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as err:
        raise TrainingError(f"cannot save the policy: {err}", fix="free disk space, then run the same again") from err


def _prepare_libraries() -> None:
    """Silence what calls home or prints bars, and say how to install what is missing."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    try:
        import datasets
        import huggingface_hub.constants
        import transformers
        import trl  # noqa: F401
    except ImportError as err:
        raise MissingDependency(
            f"training needs a package that is not installed: {err}", fix='pip install -e ".[train]"'
        ) from err
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # it may have been imported before
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def _rows(pairs: list[data.Pair]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(pairs)


def _arithmetic(config: TrainingConfig) -> tuple[str, str, list[str]]:
    """Device, precision, and in words what differs from the configuration."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.precision == "bf16" and not (device == "cuda" and torch.cuda.is_bf16_supported()):
        return device, "fp32", [f"precision fp32 instead of bf16: this machine trains on {device} without bf16"]
    return device, config.precision, []


def _arguments(config: TrainingConfig, folder: Path, total: int, *, device: str, precision: str) -> dict[str, Any]:
    """What all losses share of transformers.TrainingArguments."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.device_batch_size,
        "per_device_eval_batch_size": config.device_batch_size,
        "gradient_accumulation_steps": config.accumulation(),
        "max_length": config.max_length,
        "lr_scheduler_type": config.scheduler,
        # A share of the steps, rounded up by transformers; the first of them has rate 0, which a short training cannot
        # spare: its only step would change nothing.
        "warmup_steps": config.warmup_ratio if total * config.warmup_ratio >= 1 else 0,
        "optim": config.optimizer,
        "seed": config.seed,
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if config.gradient_checkpointing else None,
        "bf16": precision == "bf16",
        "use_cpu": device == "cpu",
        "logging_steps": math.ceil(total / 100),
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would hide a NaN behind the mean of the losses before
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _final(watch: Watch, tested: dict[str, float], per_epoch: int) -> dict[str, float]:
    names = {"loss": "eval_loss", "margin": "eval_rewards/margins", "accuracy": "eval_rewards/accuracies"}
    # The last step alone may be a batch of one pair: the mean over as many steps as a pass has.
    rows = [row for row in watch.curve if row["step"] > watch.curve[-1]["step"] - per_epoch]
    last = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    return {**last, **{f"test_{name}": tested[key] for name, key in names.items() if key in tested}}


def _record(folder: Path, summary: Summary, *, dataset: str, start: str, config: TrainingConfig, dtype: str) -> None:
    record = {
        "start": start,
        "dataset": dataset,
        "dtype": dtype.removeprefix("torch."),
        "knobs": config.knobs(summary.objective),
        "accumulation": config.accumulation(),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        **dataclasses.asdict(summary),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
