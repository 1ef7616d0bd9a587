"""What a training's configuration means and refuses; where its policy is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.training import ROOT

from pugc_core.errors import RecipeError, TrainingError
from pugc_core.recipe import load
from pugc_core.training.config import Launch, Lora, TrainingConfig
from pugc_core.training.losses.simpo import Simpo
from pugc_core.training.output import staging


def test_importing_what_the_parent_needs_imports_no_torch() -> None:
    code = (
        "import sys, pugc_core.training.run; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults_are_those_of_the_recipes_that_the_paper_follows() -> None:
    config = TrainingConfig()
    assert (config.batch_size, config.epochs, config.warmup_ratio, config.scheduler) == (128, 1.0, 0.1, "cosine")
    assert (config.dpo.learning_rate, config.dpo.beta) == (5e-7, 0.01)
    assert (config.simpo.learning_rate, config.simpo.beta, config.simpo.gamma_beta_ratio) == (3e-7, 2.0, 0.8)


@pytest.mark.parametrize(("beta", "ratio", "gamma"), [(2.0, 0.8, 1.6), (2.5, 0.1, 0.25)])
def test_simpo_gamma_is_the_ratio_times_beta(beta: float, ratio: float, gamma: float) -> None:
    assert Simpo(beta=beta, gamma_beta_ratio=ratio).simpo_gamma == pytest.approx(gamma)


def test_accumulation_keeps_the_effective_batch() -> None:
    assert TrainingConfig().accumulation() == 16
    assert TrainingConfig().accumulation(devices=8) == 2
    assert TrainingConfig(batch_size=6, device_batch_size=6).accumulation() == 1


def test_a_batch_that_is_no_multiple_is_refused_with_two_that_work() -> None:
    with pytest.raises(RecipeError, match="batch_size 12 is not a multiple of device_batch_size 8") as caught:
        TrainingConfig(batch_size=12)
    assert caught.value.fix == "set training.device_batch_size = 6, or training.batch_size = 16"
    with pytest.raises(RecipeError, match="on 3 devices"):
        TrainingConfig().accumulation(devices=3)


def test_an_unknown_objective_names_the_known_ones() -> None:
    for attempt in (lambda: TrainingConfig().loss("ppo"), lambda: TrainingConfig(objectives=("ppo",))):
        with pytest.raises(RecipeError, match="unknown objective 'ppo'; known: dpo, simpo, orpo"):
            attempt()


def test_lora_is_refused_where_it_could_not_be_merged() -> None:
    with pytest.raises(RecipeError, match="cannot be merged") as caught:
        TrainingConfig(lora=Lora(), launch=Launch(config="zero3"))
    assert '"fsdp"' in str(caught.value.fix)


def test_zero3_is_refused_in_fp32() -> None:
    with pytest.raises(RecipeError, match=r"precision fp32 contradicts training\.launch\.config zero3") as caught:
        TrainingConfig(precision="fp32", launch=Launch(config="zero3"))
    assert 'precision = "bf16"' in str(caught.value.fix)


def test_a_machine_without_bf16_does_not_fall_back_under_zero3(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from pugc_core.training.trainer import _arithmetic

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="zero3 trains in bf16"):
        _arithmetic(TrainingConfig(launch=Launch(config="zero3")))


def test_lora_has_learning_rates_of_its_own() -> None:
    """5e-7 for all weights is 5e-6 for LoRA, the alignment handbook's two recipes for DPO."""
    assert TrainingConfig().as_trained("dpo").learning_rate == 5e-7
    assert TrainingConfig(lora=Lora()).as_trained("dpo").learning_rate == pytest.approx(5e-6)
    assert TrainingConfig(lora=Lora(learning_rate_factor=2)).as_trained("simpo").learning_rate == pytest.approx(6e-7)


def test_paper_names_the_six_objectives_that_the_paper_compares() -> None:
    paper, base = load("paper").training, load("paper-base").training
    assert paper.objectives == base.objectives == ("dpo", "simpo", "orpo", "kto", "cpo", "rdpo")
    for objective in paper.objectives:
        same = paper.loss(objective) == base.loss(objective)
        assert same is (objective != "simpo")  # of which alone both settings are known
    assert (paper.orpo.learning_rate, paper.orpo.beta) == (5e-6, 0.05)
    assert (paper.kto.learning_rate, paper.kto.beta, paper.kto.good, paper.kto.bad) == (5e-7, 0.01, 1, 1)


def test_knobs_hold_what_shapes_this_objective_only() -> None:
    knobs = TrainingConfig().knobs("simpo")
    assert knobs["simpo"] == {"learning_rate": 3e-7, "beta": 2.0, "gamma_beta_ratio": 0.8}
    assert "dpo" not in knobs
    assert "objectives" not in knobs


def test_a_policy_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "policy"
    with pytest.raises(FileNotFoundError), staging(str(out)) as folder:
        (folder / "config.json").rename(folder / "no" / "such" / "place")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".policy.tmp").mkdir()
    (tmp_path / ".policy.tmp" / "left-by-a-killed-training").touch()
    for text in ("first", "second"):
        with staging(str(out)) as folder:
            (folder / "training.json").write_text(text)
        assert [p.name for p in out.iterdir()] == ["training.json"]
        assert (out / "training.json").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_folder_that_is_no_policy_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(TrainingError, match="is not a trained policy"), staging(str(tmp_path)):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_two_trainings_into_one_folder_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "policy")
    with staging(out) as folder:
        with pytest.raises(TrainingError, match="another training is writing"), staging(out):
            pass
        (folder / "training.json").touch()
    assert (tmp_path / "policy" / "training.json").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot write"), staging(str(tmp_path / "file" / "policy")):
        pass


def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0  # who may write everywhere, and so steps down for the moment
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(TrainingError, match=r"cannot write .*: Permission denied"), staging(str(tmp_path / "a")):
            pass
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)
