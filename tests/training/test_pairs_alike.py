"""Every pair counts the same: in the figures on held-out pairs, in the log, and in the update, however many are in
memory together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.training import OBJECTIVES, pairs, trl_trainer

from pugc_core.training import heldout
from pugc_core.training.config import TrainingConfig
from pugc_core.training.trainer import _final

FAMILY = ("dpo", "simpo", "cpo", "orpo")
"""One objective of each way to a loss that has pairs."""


def uneven(n: int) -> list[dict[str, Any]]:
    """Pairs of answers of many lengths, so that no pair's figures are another's."""
    rows = pairs(n)
    for i, row in enumerate(rows):
        row["chosen"][0]["content"] = "Warm water. " * (1 + i % 4)
        row["rejected"][0]["content"] = "zzz " * (1 + i)
    return rows


def test_ten_pairs_of_which_four_are_right() -> None:
    """4 of 10 is 0.4; the mean over batches of 8 and 2 would be 0.4375 (3 of 8 and 1 of 2). Wilson's
    interval for 4 of 10 is 0.168 to 0.687."""
    chosen = np.array([1.0] * 4 + [-1.0] * 6)
    pairs = np.stack([np.full(10, 0.5), chosen, np.zeros(10)], axis=1)
    found = heldout.figures(pairs, np.full(10, -0.5))
    assert str(found["accuracy"]) == "0.400 (0.168 to 0.687)"
    assert {figure.n for figure in found.values()} == {10}
    assert found["margin"].value == pytest.approx(-0.2)
    assert found["margin"].low < -0.2 < found["margin"].high
    assert (found["loss"].value, found["loss"].low, found["loss"].high) == (0.5, 0.5, 0.5)
    assert found["gain"].value == pytest.approx(-0.2 - -0.5)
    assert found["gain"].low == pytest.approx(found["margin"].low + 0.5)
    same = heldout.figures(pairs, chosen)["gain"]  # pair by pair: where each has what it had, nothing is uncertain
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert "gain" not in heldout.figures(pairs, None)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rewards_under_the_start_model_are_measured_where_they_are_not_zero(
    objective: str, start: str, tmp_path: Path
) -> None:
    config = TrainingConfig(device_batch_size=4, **{objective: {"beta": 0.3}})
    trainer = trl_trainer(objective, config, start, tmp_path, pairs(1), uneven(5))
    measured = trainer.held_out()
    margins = measured[:, 1] - measured[:, 2]
    assert trainer.start_has_rewards == (np.abs(margins).max() > 1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_held_out_pair_has_the_figures_that_it_has_alone(objective: str, start: str, tmp_path: Path) -> None:
    """As the loss itself logs them for a batch of that one pair; of KTO's loss see below."""
    import torch

    config = TrainingConfig(device_batch_size=4, **{objective: {"beta": 0.3}})
    trainer = trl_trainer(objective, config, start, tmp_path, pairs(1), uneven(5))
    trainer.model.lm_head.weight.data *= 1.5  # away from the start, or all rewards against it are 0
    measured = trainer.held_out()
    assert measured.shape == (5, 3)
    if objective == "kto":
        per_pair = [[trainer.eval_dataset[i], trainer.eval_dataset[i + 5]] for i in range(5)]
    else:
        per_pair = [[trainer.eval_dataset[i]] for i in range(5)]
    trainer.model.eval()
    for row, examples in zip(measured, per_pair, strict=True):
        batch = trainer.data_collator(examples)
        metrics: Any = getattr(trainer, "_metrics", None)
        with torch.no_grad():
            if metrics is None:
                loss, told = trainer.get_batch_loss_metrics(trainer.model, batch, "eval")
                chosen, rejected = told["eval_rewards/chosen"], told["eval_rewards/rejected"]
            else:
                loss = trainer.compute_loss(trainer.model, batch)
                chosen, rejected = (metrics["eval"][f"rewards/{side}"][-1] for side in ("chosen", "rejected"))
        assert row[1:] == pytest.approx([chosen, rejected], rel=1e-4)
        if objective != "kto":
            assert row[0] == pytest.approx(loss.item(), rel=1e-4)
    assert len(set(measured[:, 1] - measured[:, 2])) == 5


def test_held_out_kto_has_one_z_for_all() -> None:
    """Log-ratios 2 and 4 (chosen), -1 and 1 (rejected), of mismatched answers 1, 1, 0 and 0, so z = 0.5; beta 0.1.
    Pair 1: twice 1 - sigmoid(0.15) = 0.462570; pair 2: 1 - sigmoid(0.35) = 0.413382, 1 - sigmoid(-0.05) = 0.512497."""
    from pugc_core.training.unpaired import UnpairedTrainer

    class Bare(UnpairedTrainer):
        def __init__(self) -> None:
            self.beta, self.desirable_weight, self.undesirable_weight = 0.1, 1.0, 1.0

    measured = Bare().measured(np.array([[2.0, 1.0], [4.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]))
    assert measured[:, 0] == pytest.approx([0.462570, (0.413382 + 0.512497) / 2], abs=1e-6)
    assert measured[:, 1:] == pytest.approx(np.array([[0.2, -0.1], [0.4, 0.1]]))


@pytest.mark.parametrize("objective", FAMILY)
def test_pairs_in_memory_together_change_nothing(objective: str, start: str, tmp_path: Path) -> None:
    """Three pairs, one step: all at once, in batches of 2 and 1, or one by one. The update is the gradient (SGD)."""
    import torch

    made = []
    for at_once in (4, 2, 1):
        config = TrainingConfig(
            batch_size=4,
            device_batch_size=at_once,
            optimizer="sgd",
            gradient_checkpointing=False,
            **{objective: {"learning_rate": 1.0, "beta": 0.3}},
        )
        trainer = trl_trainer(objective, config, start, tmp_path / str(at_once), uneven(3))
        before = torch.cat([w.detach().flatten().clone() for w in trainer.model.parameters()])
        trainer.train()
        after = torch.cat([w.detach().flatten() for w in trainer.model.parameters()])
        made.append((after - before, trainer.state.log_history[0]))
    (whole, logged), *others = made
    assert logged["rows"] == 3
    for update, told in others:
        assert (update - whole).norm() / whole.norm() < 1e-3
        for name in ("loss", "rewards/margins", "rewards/accuracies"):
            assert told[name] == pytest.approx(logged[name], rel=1e-4), name


def test_kto_logs_means_over_answers(start: str, tmp_path: Path) -> None:
    """Three pairs are six answers, in batches of four and two; a batch has one side oftener than the other."""
    config = TrainingConfig(batch_size=4, device_batch_size=2, kto={"beta": 0.3})
    trainer = trl_trainer("kto", config, start, tmp_path, uneven(3))
    seen: list[dict[str, Any]] = []
    weigh = trainer.weigh

    def spied(metrics: dict[str, dict[str, list[float]]]) -> None:
        seen.append({name: list(values) for name, values in metrics["train"].items()})
        seen.append({"sides": list(trainer._sides)})
        weigh(metrics)

    trainer.weigh = spied
    trainer.model.lm_head.weight.data *= 1.5
    trainer.train()
    batches, sides = seen[0], seen[1]["sides"]
    assert len(sides) == 2
    assert tuple(map(sum, zip(*sides, strict=True))) == (3, 3)
    logged = trainer.state.log_history[0]
    for side, counts in zip(("chosen", "rejected"), zip(*sides, strict=True), strict=True):
        values = iter(batches[f"rewards/{side}"])
        total = sum(next(values) * count for count in counts if count)
        assert logged[f"rewards/{side}"] == pytest.approx(total / 3)
    assert logged["rewards/margins"] == pytest.approx(logged["rewards/chosen"] - logged["rewards/rejected"])
    assert logged["rows"] == 6


def test_the_last_pass_is_a_mean_over_pairs() -> None:
    """Nine pairs in steps of four are steps of 4, 4 and 1: (4 * 0.5 + 4 * 0.25 + 1 * 1) / 9 = 0.444444."""
    accuracies = [0.0, 0.0, 0.0, 0.5, 0.25, 1.0]
    rows = [
        {"step": i + 1, "loss": 2.0, "accuracy": value, "rows": (4, 4, 1)[i % 3]} for i, value in enumerate(accuracies)
    ]
    assert _final(rows, 3) == pytest.approx({"loss": 2.0, "accuracy": 4 / 9})
