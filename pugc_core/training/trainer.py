"""Training itself, in this process, which is one of several where a launcher started more of them. Callers that outlive
a training take `run.run` instead.

On a CPU the same call gives the same weights, bit for bit (same number of threads), also when it was killed in between
and started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pugc_core.config import digest
from pugc_core.errors import MissingDependency, RecipeError, TrainingError
from pugc_core.progress import duration
from pugc_core.training import data
from pugc_core.training.config import VERSION, TrainingConfig
from pugc_core.training.losses.base import Setup
from pugc_core.training.output import RECORD, checkpoints, last_checkpoint, staging, unfinished
from pugc_core.training.start import adapter, fingerprint, load_model, load_tokenizer, merged, stops
from pugc_core.training.summary import Report, Say, Summary, unsaid
from pugc_core.training.tokens import Ids, end_of_turn

_ROWS = "rows"
_VERSIONS = ("trl", "transformers", "torch", "accelerate", "datasets")


def train(
    *,
    dataset: str,
    start: str,
    objective: str,
    config: TrainingConfig,
    out: str,
    report: Report,
    say: Say = unsaid,
    system_role: bool | None = None,
) -> Summary:
    """Train the policy `start` on the folder `dataset` (train.parquet, test.parquet) and write it to the folder `out`.

    `start` is a local Hugging Face folder or a hub id, with "@revision" where one is meant; `system_role` is
    what its recipe says of it, so that prompts are those that were sampled. What is written is an ordinary Hugging Face
    folder in the start model's own dtype, with a record of the training in training.json.
    Started again after it was killed, it goes on from the last checkpoint.
    Raises RecipeError for an unknown objective or a batch that the devices do not divide, ModelNotFound,
    MissingDependency, and TrainingError for the rest.
    """
    began = time.monotonic()
    loss = config.as_trained(objective)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation = config.accumulation(devices)
    _prepare_libraries()
    import numpy as np
    import torch
    from transformers import PrinterCallback, set_seed

    from pugc_core.training import heldout
    from pugc_core.training.callbacks import Before, Watch, curve

    pairs = data.read(dataset)
    if not pairs.train:
        raise TrainingError(
            f"no pairs to train on in {dataset}/train.parquet",
            fix="ingest more posts, or look at the drop reasons of the pairs stage (`pugc status`)",
        )
    device, precision, notes = _arithmetic(config)
    parts = [VERSION, pairs.content, fingerprint(start), config.knobs(objective), devices]
    key = digest([*parts, {"system_role": False}] if system_role is False else parts)
    with _together(out, key, device) as folder:
        set_seed(config.seed)
        tokenizer = load_tokenizer(start)
        end = end_of_turn(tokenizer, stops(start, tokenizer))
        kept = data.fitting(pairs.train, tokenizer, config.max_length, end, system_role)
        held_out = data.fitting(pairs.test, tokenizer, config.max_length, end, system_role)
        if not kept.kept:
            raise TrainingError(
                f"none of the {len(pairs.train)} training pairs fits whole in max_length {config.max_length} tokens",
                fix="raise training.max_length, or lower the responses' max_tokens",
            )
        per_epoch = math.ceil(math.ceil(len(kept.kept) / (config.device_batch_size * devices)) / accumulation)
        total = config.max_steps or math.ceil(per_epoch * config.epochs)
        watch = Watch(report, kept.tokens / len(kept.kept) * min(config.batch_size, len(kept.kept)))
        resumed = last_checkpoint(folder)
        with _memory_knobs():
            model = load_model(start, config.lora, precision=precision)
            disk_dtype, use_cache = model.dtype, model.config.use_cache
            if not (config.lora and config.lora.quantize):
                model.to(torch.float32)
            trainer = loss.trainer(
                Setup(
                    arguments=_arguments(config, folder, total, device=device, precision=precision, devices=devices),
                    model=model,
                    tokenizer=tokenizer,
                    train=_rows(kept.kept, folder, "train"),
                    test=_rows(held_out.kept, folder, "test") if held_out.kept else None,
                    callbacks=[watch],
                    references=Path(out).absolute().parent / ".references",
                    adapter=adapter(config.lora),
                    say=say,
                )
            )
            before = Before(trainer, checkpoints(folder), say)
            if held_out.kept and trainer.start_has_rewards:
                trainer.add_callback(before)
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
            measured = {}
            if held_out.kept:
                seconds = held_out.tokens / 3 / watch.tokens_per_second if watch.steps else 0  # no backward pass
                say(f"the trained policy on {len(held_out.kept)} held-out pairs: about {duration(seconds)}")
                start_margins = before.margins if trainer.start_has_rewards else np.zeros(len(held_out.kept))
                measured = heldout.figures(trainer.held_out(), start_margins)
        steps, points = trainer.state.global_step, curve(trainer.state.log_history)
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
            resumed_at=int(resumed.name.rpartition("-")[2]) if resumed else 0,
            devices=devices,
            tokens_per_second=round(watch.tokens_per_second, 1),
            final=_final(points, per_epoch),
            curve=points,
            device=device,
            precision=precision,
            notes=notes,
            held_out=measured,
        )
        _save(trainer, tokenizer, folder, start, config, dtype=disk_dtype, use_cache=use_cache)
        if trainer.is_world_process_zero():
            _record(folder, summary, dataset=dataset, start=start, config=config, dtype=str(disk_dtype))
    return summary


@contextlib.contextmanager
def _memory_knobs() -> Iterator[None]:
    """When the GPU's memory runs out, say which knobs make it go further."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as err:
        raise TrainingError(
            f"out of memory: {str(err).splitlines()[0]}",
            fix="lower training.device_batch_size or training.max_length, keep gradient_checkpointing on, set "
            'training.lora = {}, or spread the model with training.launch.config = "fsdp"',
        ) from err


@contextlib.contextmanager
def _together(out: str, key: str, device: str) -> Iterator[Path]:
    """The folder to write into, made and put into place by the first process; the others wait for it."""
    if "WORLD_SIZE" not in os.environ:
        with staging(out, key) as folder:
            yield folder
        return
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    with staging(out, key) if state.is_main_process else contextlib.nullcontext(unfinished(out)) as folder:
        state.wait_for_everyone()
        yield folder
        state.wait_for_everyone()


def _save(
    trainer: Any, tokenizer: Any, folder: Path, start: str, config: TrainingConfig, *, dtype: Any, use_cache: bool
) -> None:
    """Writes the policy whole, in the start model's dtype; every process takes part, where weights are in shares."""
    import torch
    from safetensors import SafetensorError

    from pugc_core.training.callbacks import DIVERGED

    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # DeepSpeed's engine is the wrapped one alone
    if not trainer.is_world_process_zero():
        return
    if not all(bool(torch.isfinite(w).all()) for w in weights.values()):
        raise TrainingError(f"the weights are no finite numbers after step {trainer.state.global_step}", fix=DIVERGED)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora:
        model = merged(model, weights, start)
        weights = model.state_dict()
    # The trainer switches the cache off in the configuration; left so, every engine would generate slowly.
    model.config.use_cache = use_cache
    model.config.dtype = dtype
    try:
        model.save_pretrained(folder, state_dict={name: tensor.to(dtype) for name, tensor in weights.items()})
        tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as err:
        raise TrainingError(f"cannot save the policy: {err}", fix="free disk space, then run the same again") from err
    shutil.rmtree(folder / _ROWS)


def _prepare_libraries() -> None:
    """Silence what calls home or prints bars, and say how to install what is missing."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
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


def _rows(pairs: list[dict[str, Ids]], folder: Path, split: str) -> Any:
    """The pairs as a data set on disk, where all processes find what one of them derived from it."""
    from datasets import Dataset, load_from_disk

    place = folder / _ROWS / split
    if int(os.environ.get("RANK", "0")) == 0:
        Dataset.from_list(pairs).save_to_disk(place)
    if "WORLD_SIZE" in os.environ:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
    return load_from_disk(place)


def _arithmetic(config: TrainingConfig) -> tuple[str, str, list[str]]:
    """Device, precision, and in words what differs from the configuration."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.precision == "bf16" and not (device == "cuda" and torch.cuda.is_bf16_supported()):
        if config.launch.config == "zero3":
            raise RecipeError(
                f"training.launch.config zero3 trains in bf16, and this machine's {device} has none",
                fix='set training.launch.config = "fsdp" or "ddp"',
            )
        return device, "fp32", [f"precision fp32 instead of bf16: this machine trains on {device} without bf16"]
    return device, config.precision, []


def _arguments(
    config: TrainingConfig, folder: Path, total: int, *, device: str, precision: str, devices: int = 1
) -> dict[str, Any]:
    """What all losses share of transformers.TrainingArguments."""
    return {
        "output_dir": str(checkpoints(folder)),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.device_batch_size,
        "per_device_eval_batch_size": 1,  # so that each held-out pair has its own figures
        "gradient_accumulation_steps": config.accumulation(devices),
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
        "use_liger_kernel": device == "cuda" and importlib.util.find_spec("liger_kernel") is not None,
        "use_cpu": device == "cpu",
        "logging_steps": math.ceil(total / 100),
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would hide a NaN behind the mean of the losses before
        "save_strategy": "steps" if config.launch.checkpoints < 1 else "no",
        "save_steps": math.ceil(total * config.launch.checkpoints),
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _final(points: list[dict[str, float]], per_epoch: int) -> dict[str, float]:
    # The last step alone may be a batch of one pair: the mean over the rows trained on in as many steps as a pass has.
    last = [row for row in points if row["step"] > points[-1]["step"] - per_epoch]
    told = {name: [row for row in last if name in row] for name in ("loss", "margin", "accuracy")}
    return {
        name: sum(row[name] * row["rows"] for row in rows) / sum(row["rows"] for row in rows)
        for name, rows in told.items()
        if rows
    }


def _record(folder: Path, summary: Summary, *, dataset: str, start: str, config: TrainingConfig, dtype: str) -> None:
    record = {
        "start": start,
        "dataset": dataset,
        "dtype": dtype.removeprefix("torch."),
        "knobs": config.knobs(summary.objective),
        "accumulation": config.accumulation(summary.devices),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        **dataclasses.asdict(summary),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
