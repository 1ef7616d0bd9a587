"""Real trainings of a random two-layer model: every objective, killed and started again."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.training import OBJECTIVES, ROOT, SMALL, dataset, pairs, train

from pugc_core.errors import TrainingError
from pugc_core.training.config import Launch
from pugc_core.training.output import checkpoints, last_checkpoint, mark_whole, staging, unfinished
from pugc_core.training.summary import Summary

FAMILIES = ("dpo", "simpo", "orpo", "kto")
"""One objective for each of the trainers that all ten are made of."""
CONFIG = SMALL.model_copy(update={"launch": Launch(checkpoints=0.2)})


class Trained(NamedTuple):
    """An undisturbed training: nine pairs, two that are too long, two held out."""

    folder: Path
    """Holds `data` and `policy`."""
    summary: Summary


@pytest.fixture(scope="module")
def trained(start: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """The training of an objective, made once for all tests that look at it."""
    made: dict[str, Trained] = {}

    def of(objective: str) -> Trained:
        if objective not in made:
            folder = tmp_path_factory.mktemp(objective)
            data = dataset(folder / "data", pairs(9) + pairs(2, answer="w" * 90), pairs(2))
            made[objective] = Trained(folder, train(data, start, folder / "policy", objective, CONFIG))
        return made[objective]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_policy_is_trained_saved_and_generates(objective: str, start: str, trained: Callable[[str], Trained]) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, summary = trained(objective)
    out = folder / "policy"

    # 9 pairs in batches of 4 (2 x 2): 3 steps per pass, 3 passes.
    assert (summary.steps, summary.n_train, summary.n_test, summary.pairs_trained) == (9, 9, 2, 27)
    assert (summary.dropped_too_long, summary.dropped) == (2, {"pair_too_long": 2})
    assert [p["step"] for p in summary.curve] == list(range(1, 10))
    assert all(math.isfinite(value) for point in summary.curve for value in point.values())
    assert summary.final["loss"] < summary.curve[0]["loss"]
    assert summary.final["margin"] > summary.curve[0]["margin"]
    names = {"loss", "margin", "accuracy"}
    assert summary.final.keys() == names - ({"accuracy"} if objective == "kto" else set())
    assert summary.held_out.keys() == names | {"gain"}
    # Rewards of the others are measured against the start model, which gives each pair a margin of 0.
    own = objective in ("simpo", "cpo", "orpo", "rdpo")
    assert (summary.held_out["gain"] != summary.held_out["margin"]) == own
    assert summary.held_out["gain"].value > 0
    assert {figure.n for figure in summary.held_out.values()} == {2}
    if summary.device == "cpu":
        assert summary.precision == "fp32"
        assert "fp32 instead of bf16" in summary.notes[0]

    assert {p.name for p in folder.iterdir()} - {".references"} == {"data", "policy"}
    assert {p.name for p in out.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    record = json.loads((out / "training.json").read_text())
    assert record["objective"] == objective
    assert record["knobs"] == json.loads(json.dumps(SMALL.knobs(objective)))
    assert record["versions"].keys() >= {"trl", "transformers", "torch"}
    assert record["curve"] == summary.curve

    with safe_open(out / "model.safetensors", "pt") as saved, safe_open(f"{start}/model.safetensors", "pt") as before:
        assert saved.keys() == before.keys()
        assert saved.get_tensor("lm_head.weight").dtype == torch.bfloat16
        assert any((saved.get_tensor(k) != before.get_tensor(k)).any() for k in saved.keys())  # noqa: SIM118
    assert json.loads((out / "config.json").read_text())["use_cache"] is True
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    asked = tokenizer.apply_chat_template(
        pairs(1)[0]["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > asked["input_ids"].shape[1]


def test_accumulated_batches_train_as_one_large_batch(start: str, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", pairs(4))
    losses = [
        train(
            data, start, tmp_path / f"by{at_once}", "simpo", SMALL.model_copy(update={"device_batch_size": at_once})
        ).curve[-1]["loss"]
        for at_once in (1, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_pair_trains_for_one_step_the_same_each_time(objective: str, start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"epochs": 1.0, "batch_size": 128})
    data = dataset(tmp_path / "data", pairs(1))
    for name in ("one", "two"):
        summary = train(data, start, tmp_path / name, objective, config)
        assert (summary.steps, summary.n_train, summary.pairs_trained) == (1, 1, 1)
        assert summary.curve[0]["learning_rate"] == 5e-3
    before, one, two = (
        (folder / "model.safetensors").read_bytes() for folder in (Path(start), tmp_path / "one", tmp_path / "two")
    )
    assert before != one == two


def test_held_out_pairs_change_nothing_in_what_is_trained(start: str, tmp_path: Path) -> None:
    """SimPO's are measured before the first step too, and the order of the training pairs is drawn at random."""
    config = SMALL.model_copy(update={"max_steps": 3, "batch_size": 2})
    said: dict[int, list[str]] = {}
    for n in (0, 3):
        said[n] = []
        train(dataset(tmp_path / f"data{n}", pairs(9), pairs(n)), start, tmp_path / f"out{n}", "simpo", config, said[n])
    one, two = ((tmp_path / f"out{n}" / "model.safetensors").read_bytes() for n in (0, 3))
    assert one == two
    assert said[0] == []
    assert [words.partition(":")[0] for words in said[3]] == [
        "the start model on 3 held-out pairs",
        "the trained policy on 3 held-out pairs",
    ]


def test_max_steps_wins_over_epochs(start: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"max_steps": 2})
    summary = train(dataset(tmp_path / "data", pairs(9)), start, tmp_path / "out", "simpo", config)
    assert (summary.steps, summary.pairs_trained, len(summary.curve)) == (2, 8, 2)


def test_nothing_calls_home() -> None:
    import huggingface_hub.constants

    from pugc_core.training.trainer import _prepare_libraries

    _prepare_libraries()
    assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY is True


KILLED = """
import json, os, signal, sys
from pugc_core.training.config import TrainingConfig
from pugc_core.training.trainer import train
spec = json.loads(sys.argv[1])
step = int(sys.argv[2])
def report(progress):
    if progress["step"] == step:
        os.kill(os.getpid(), signal.SIGKILL)
train(**{**spec, "config": TrainingConfig(**spec["config"])}, report=report)
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", FAMILIES)
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    objective: str, start: str, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    """Nine steps, a checkpoint after every second, kill -9 in the fourth step's report and again in the seventh's."""
    folder, whole = trained(objective)
    out = tmp_path / "killed"
    spec = {"dataset": str(folder / "data"), "start": start, "objective": objective, "out": str(out)}
    words = json.dumps({**spec, "config": CONFIG.model_dump(mode="json")})
    for step, last in ((4, 2), (7, 6)):
        done = subprocess.run([sys.executable, "-c", KILLED, words, str(step)], cwd=ROOT, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
        found = last_checkpoint(unfinished(str(out)))
        assert found
        assert found.name == f"checkpoint-{last}"
        assert len(list(found.parent.glob("checkpoint-*"))) <= 2
    resumed = train(str(folder / "data"), start, out, objective, CONFIG)
    assert (whole.resumed_at, resumed.resumed_at) == (0, 6)
    assert resumed.curve == whole.curve
    assert (resumed.final, resumed.held_out) == (whole.final, whole.held_out)
    one, two = ((place / "model.safetensors").read_bytes() for place in (folder / "policy", out))
    assert one == two
    assert not unfinished(str(out)).exists()


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = unfinished(str(tmp_path / "policy"))
    for name, whole in (("checkpoint-2", True), ("checkpoint-10", True), ("checkpoint-12", False)):
        (checkpoints(folder) / name).mkdir(parents=True)
        if whole:
            mark_whole(checkpoints(folder) / name)
    assert last_checkpoint(folder) == checkpoints(folder) / "checkpoint-10"
    assert not (checkpoints(folder) / "checkpoint-2").exists()


def test_a_checkpoint_goes_only_when_there_is_another(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    saved, found = Trainer._save_checkpoint, []

    def watched(self: Trainer, *args: Any, **kwargs: Any) -> None:
        saved(self, *args, **kwargs)
        found.append(last_checkpoint(unfinished(str(tmp_path / "out"))))

    monkeypatch.setattr(Trainer, "_save_checkpoint", watched)
    config = SMALL.model_copy(update={"launch": Launch(checkpoints=0.3)})
    train(dataset(tmp_path / "data", pairs(8)), start, tmp_path / "out", "simpo", config)
    # While a new one is written, the one before is there and whole.
    assert [place and place.name for place in found] == [None, "checkpoint-2", "checkpoint-4"]


def test_no_checkpoint_holds_numbers_that_nobody_looked_at(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    step, steps = Trainer.training_step, 0

    def spoiled(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *args, **kwargs) * (math.nan if steps >= 14 else 1.0)

    monkeypatch.setattr(Trainer, "training_step", spoiled)
    # 203 steps, a line in the log every third; checkpoints fall between two lines.
    config = SMALL.model_copy(update={"launch": Launch(checkpoints=0.03), "max_steps": 203, "batch_size": 2})
    with pytest.raises(TrainingError, match="loss became nan"):
        train(dataset(tmp_path / "data", pairs(8)), start, tmp_path / "out", "simpo", config)
    kept = last_checkpoint(unfinished(str(tmp_path / "out")))
    assert kept
    assert kept.name == "checkpoint-7"


def test_checkpoints_of_another_training_are_cleared(tmp_path: Path) -> None:
    out = str(tmp_path / "policy")
    for key, kept in (("a", False), ("a", True), ("b", False)):
        with contextlib.suppress(InterruptedError), staging(out, key) as folder:
            assert (last_checkpoint(folder) is not None) is kept
            (checkpoints(folder) / "checkpoint-3").mkdir(parents=True, exist_ok=True)
            mark_whole(checkpoints(folder) / "checkpoint-3")
            raise InterruptedError
        assert last_checkpoint(unfinished(out))
