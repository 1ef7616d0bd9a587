"""Several processes, fewer weights, and what a GPU's limits do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers.training import SMALL, dataset, pairs, train

from pugc_core.errors import MissingDependency, RecipeError, TrainingError
from pugc_core.training.config import Launch, Lora
from pugc_core.training.launch import command
from pugc_core.training.output import last_checkpoint, unfinished
from pugc_core.training.run import run


def test_the_command_follows_the_recipe(tmp_path: Path) -> None:
    def words(gpus: bool, **launch: Any) -> str:
        return " ".join(command(Launch(**launch), ["module", "--flag"], gpus=gpus)[1:])

    assert words(False).startswith("-m accelerate.commands.launch --cpu --quiet --num_processes 1")
    assert words(False, processes=2) == "-m torch.distributed.run --standalone --nproc_per_node 2 -m module --flag"
    for name in ("ddp", "fsdp", "zero3"):
        line = words(True, processes=8, config=name)
        assert f"launch_configs/{name}.yaml --num_processes 8 --num_machines 1 -m module --flag" in line
    own = tmp_path / "mine.yaml"
    own.touch()
    assert f"--config_file {own}" in words(True, config=str(own))


def test_launch_configurations_that_do_not_serve_are_refused() -> None:
    with pytest.raises(RecipeError, match="no launch configuration 'zero9'") as caught:
        command(Launch(config="zero9"), [], gpus=True)
    assert "ddp, fsdp, zero3" in str(caught.value.fix)
    with pytest.raises(RecipeError, match="'fsdp' needs GPUs"):
        command(Launch(config="fsdp"), [], gpus=False)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_two_processes_train_as_one(objective: str, start: str, tmp_path: Path) -> None:
    """The same pairs in the same steps, so the same curve up to rounding: gradients are summed in another order. The
    last of three held-out pairs has no partner in the other process, and still counts once."""
    data = dataset(tmp_path / "data", pairs(8), [*pairs(2), *pairs(1, answer="Warm.")])
    made = {}
    for processes in (1, 2):
        config = SMALL.model_copy(update={"launch": Launch(processes=processes)})
        out = str(tmp_path / f"by{processes}")
        made[processes] = run(
            dataset=data, start=start, objective=objective, config=config, out=out, report=lambda _: None
        )
    one, two = made[1], made[2]
    assert (one.devices, two.devices, one.steps, two.steps) == (1, 2, 6, 6)
    assert [p["loss"] for p in two.curve] == pytest.approx([p["loss"] for p in one.curve], rel=1e-3)
    assert [p["margin"] for p in two.curve] == pytest.approx([p["margin"] for p in one.curve], rel=1e-2, abs=1e-3)
    assert {figure.n for figure in two.held_out.values()} == {3}
    for name, figure in one.held_out.items():
        assert two.held_out[name].value == pytest.approx(figure.value, rel=1e-2, abs=1e-3)


def test_a_batch_that_the_processes_do_not_divide_is_refused(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"launch": Launch(processes=3)})
    with pytest.raises(RecipeError, match="batch_size 4 is not a multiple of device_batch_size 2 on 3 devices"):
        run(
            dataset=dataset(tmp_path / "data", pairs(4)),
            start=start,
            objective="simpo",
            config=config,
            out=str(tmp_path / "out"),
            report=lambda _: None,
        )


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "simpo", "kto"])
def test_lora_trains_little_and_is_merged(objective: str, start: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    config = SMALL.model_copy(update={"lora": Lora(rank=4)})
    summary = train(dataset(tmp_path / "data", pairs(9), pairs(2)), start, tmp_path / "policy", objective, config)
    assert summary.curve[0]["learning_rate"] == pytest.approx(10 * 5e-3)
    assert summary.held_out["margin"].low > 0  # against the start without its matrices, or it would be 0
    assert summary.final["margin"] > summary.curve[0]["margin"]
    with (
        safe_open(tmp_path / "policy" / "model.safetensors", "pt") as saved,
        safe_open(f"{start}/model.safetensors", "pt") as before,
    ):
        names = list(before.keys())
        assert list(saved.keys()) == names
        changed = [n for n in names if (saved.get_tensor(n) != before.get_tensor(n)).any()]
    assert changed
    assert not any("embed" in n or "norm" in n or "lm_head" in n for n in changed)


def test_four_bits_without_a_gpu_are_refused_with_a_way_out(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"lora": Lora(quantize=True)})
    with pytest.raises(MissingDependency, match="needs an NVIDIA GPU and bitsandbytes") as caught:
        train(dataset(tmp_path / "data", pairs(2)), start, tmp_path / "out", "dpo", config)
    assert "training.lora.quantize = false" in str(caught.value.fix)


def test_running_out_of_memory_names_the_knobs(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import Trainer

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(Trainer, "training_step", full)
    with pytest.raises(TrainingError, match="out of memory: CUDA out of memory") as caught:
        train(dataset(tmp_path / "data", pairs(2)), start, tmp_path / "out", "simpo")
    for knob in ("device_batch_size", "max_length", "gradient_checkpointing", "lora", "fsdp"):
        assert knob in str(caught.value.fix)


def test_numbers_that_go_wrong_leave_the_last_good_checkpoint(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"launch": Launch(checkpoints=0.2)})
    data = dataset(tmp_path / "data", pairs(9))

    def spoil(progress: dict[str, Any]) -> None:
        if progress["step"] == 5:
            raise TrainingError("loss became nan at step 5")

    from pugc_core.training.trainer import train as trained

    with pytest.raises(TrainingError):
        trained(dataset=data, start=start, objective="simpo", config=config, out=str(tmp_path / "out"), report=spoil)
    assert not (tmp_path / "out").exists()
    assert last_checkpoint(unfinished(str(tmp_path / "out")))


@pytest.mark.slow
def test_the_data_set_trains_with_trls_own_command_line(start: str, tmp_path: Path) -> None:
    from pugc_core.results.exports import write_dataset
    from pugc_core.tables.shard_states import States

    folder = dataset(tmp_path / "rows", pairs(4), pairs(1))
    frame = pl.concat([pl.read_parquet(f"{folder}/{split}.parquet") for split in ("train", "test")])
    write_dataset(str(tmp_path / "data"), frame, recipe="r", fingerprint="f", funnel={}, states=States({}, ()))
    words = f"dpo --model_name_or_path {start} --dataset_name {tmp_path / 'data'} --output_dir {tmp_path / 'out'}"
    done = subprocess.run(
        [str(Path(sys.executable).parent / "trl"), *words.split(), "--max_steps", "2", "--use_cpu", "--bf16", "False"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").is_file()
