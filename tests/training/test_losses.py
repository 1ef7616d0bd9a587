"""Every loss against numbers worked by hand, or ten lines of reference."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.training import dataset, pairs, train, trl_trainer

from pugc_core.training.config import TrainingConfig


def test_simpo_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """beta 2, gamma/beta 0.8, mean log-probabilities -1 and -2: 2 * (1 - 0.8) = 0.4, log(1 + e^-0.4) = 0.513015."""
    import torch

    trainer = trl_trainer("simpo", TrainingConfig(), start, tmp_path)
    assert (trainer.loss_type, trainer.cpo_alpha, trainer.label_smoothing) == ("simpo", 0.0, 0.0)
    loss, chosen, rejected = trainer.cpo_loss(torch.tensor([-1.0]), torch.tensor([-2.0]))
    assert loss.item() == pytest.approx(0.513015, abs=1e-6)
    assert (chosen.item(), rejected.item()) == (-2.0, -4.0)


def test_simpo_means_over_the_answer_alone(start: str, tmp_path: Path) -> None:
    """The whole path from text to loss against a reference of ten lines, template and end token included."""
    import torch

    config = TrainingConfig()
    trainer = trl_trainer("simpo", config, start, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
        means = []
        for side in ("chosen", "rejected"):
            pair = pairs(1)[0]
            rendered = [{"add_generation_prompt": True}, {}]
            head, whole = (
                trainer.processing_class.apply_chat_template(m, return_dict=False, **options)
                for m, options in zip((pair["prompt"], pair["prompt"] + pair[side]), rendered, strict=True)
            )
            logits = trainer.model(torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
            means.append(logits.gather(1, torch.tensor(whole[1:])[:, None])[len(head) - 1 :].mean().item())
    expected = math.log1p(math.exp(-config.simpo.beta * (means[0] - means[1] - config.simpo.gamma_beta_ratio)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def fixed(*rows: list[float]) -> Any:
    """A model that gives these log-probabilities, a row per answer, whatever it is asked."""
    import torch

    one = torch.tensor(rows)
    rest = {name: torch.zeros(one.shape) for name in ("entropy", "mean_logits")}
    return lambda **_: SimpleNamespace(log_probs=one, is_top1=torch.zeros(one.shape, dtype=torch.bool), **rest)


def answers_of(lengths: tuple[int, int], **references: float) -> dict[str, Any]:
    """A batch of one pair with answers of so many tokens, and the start model's log-probabilities of both."""
    import torch

    width = 1 + max(lengths)
    masks = [[0] + [1] * n + [0] * (width - 1 - n) for n in lengths]
    return {
        "input_ids": torch.full((2, width), 5),
        "attention_mask": torch.ones(2, width, dtype=torch.long),
        "completion_mask": torch.tensor(masks),
        **{f"ref_{side}_logps": torch.tensor([value]) for side, value in references.items()},
    }


# Policy: -10 and -14; start: -12 and -13; so log-ratios 2 and -1, and a difference of 3.
HAND_WORKED = {
    "dpo": 0.678260,  # beta 0.01: log(1 + e^-0.03)
    "robust": 0.674510,  # a tenth flipped: (0.9 * 0.678260 - 0.1 * log(1 + e^0.03) = 0.708260) / 0.8
    "ipo": 4.0,  # beta 0.1, one token each: (3 - 1 / 0.2)^2
    "bco": 1.371357,  # log(1 + e^-0.02) + log(1 + e^-0.01) = 0.683197 + 0.688160
}


@pytest.mark.parametrize(("objective", "loss"), HAND_WORKED.items())
def test_losses_against_the_start_on_fixed_log_probabilities(
    objective: str, loss: float, start: str, tmp_path: Path
) -> None:
    trainer = trl_trainer(objective, TrainingConfig(), start, tmp_path)
    batch = answers_of((1, 1), chosen=-12.0, rejected=-13.0)
    assert trainer.compute_loss(fixed([-10.0], [-14.0]), batch).item() == pytest.approx(loss, abs=1e-6)
    margin = 3 * TrainingConfig().loss(objective).beta
    assert trainer._metrics["eval"]["rewards/margins"] == [pytest.approx(margin)]


def test_lddpo_counts_what_is_beyond_the_shorter_answer_half(start: str, tmp_path: Path) -> None:
    """Chosen -1 + (-2 - 3) / 2 = -3.5 against -3; rejected -4 against -3: 0.01 * 0.5, log(1 + e^-0.005) = 0.690650."""
    trainer = trl_trainer("lddpo", TrainingConfig(), start, tmp_path)
    batch = answers_of((3, 1), chosen=-3.0, rejected=-3.0)
    loss = trainer.compute_loss(fixed([-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]), batch)
    assert loss.item() == pytest.approx(0.690650, abs=1e-6)


def test_rdpo_adds_the_price_of_length_to_the_difference(start: str, tmp_path: Path) -> None:
    """beta 0.01, alpha 0.001: 0.01 * 3 + 0.001 * (20 - 12) = 0.038, log(1 + e^-0.038) = 0.674328. An answer's price is
    taken off the start model's log-probability: 20 tokens (19 bytes and the end) at 0.1 nats, 12 at 0.1."""
    plain, priced = (trl_trainer(name, TrainingConfig(), start, tmp_path).train_dataset[0] for name in ("dpo", "rdpo"))
    assert (len(priced["chosen_ids"]), len(priced["rejected_ids"])) == (20, 12)
    assert priced["ref_chosen_logps"] == pytest.approx(plain["ref_chosen_logps"] - 2.0, abs=1e-4)
    assert priced["ref_rejected_logps"] == pytest.approx(plain["ref_rejected_logps"] - 1.2, abs=1e-4)
    trainer = trl_trainer("rdpo", TrainingConfig(), start, tmp_path)
    batch = answers_of((1, 1), chosen=-12.0 - 2.0, rejected=-13.0 - 1.2)
    assert trainer.compute_loss(fixed([-10.0], [-14.0]), batch).item() == pytest.approx(0.674328, abs=1e-6)


def test_cpo_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """beta 0.1: 0.1 * (-10 + 14) = 0.4, log(1 + e^-0.4) = 0.513015; and the likelihood term with weight 1."""
    import torch

    trainer = trl_trainer("cpo", TrainingConfig(), start, tmp_path)
    loss, _, _ = trainer.cpo_loss(torch.tensor([-10.0]), torch.tensor([-14.0]))
    assert loss.item() == pytest.approx(0.513015, abs=1e-6)
    batch = next(iter(trainer.get_train_dataloader()))
    whole, metrics = trainer.get_batch_loss_metrics(trainer.model, batch)
    preference = math.log1p(math.exp(-metrics["rewards/margins"]))
    labels = batch["chosen_labels"][:, 1:]
    assert (labels != -100).sum() == 20  # "Warm water, slowly." and its end
    logits = trainer.model(batch["chosen_input_ids"]).logits[:, :-1]
    likelihood = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).item()
    assert whole.item() == pytest.approx(preference + likelihood, rel=1e-4)


def test_orpo_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """Means -1 and -2: log odds -1 - log(1 - e^-1) = -0.541325 and -2 - log(1 - e^-2) = -1.854587, difference 1.313262,
    log sigmoid -0.238183, times beta 0.05."""
    import torch

    trainer = trl_trainer("orpo", TrainingConfig(), start, tmp_path)
    ratio, *_ = trainer.odds_ratio_loss(torch.tensor([-1.0]), torch.tensor([-2.0]))
    assert ratio.item() == pytest.approx(0.05 * -0.238183, abs=1e-6)


def test_kto_on_fixed_log_probabilities(start: str, tmp_path: Path) -> None:
    """Log-ratios 2 (good) and -1 (bad), so z = 0.5 where the same figures come for the shifted answers; beta 0.01:
    both losses are 1 - sigmoid(0.015) = 0.496250."""
    import torch

    trainer = trl_trainer("kto", TrainingConfig(), start, tmp_path)
    trainer.ref_model = fixed([-12.0], [-13.0])
    batch = answers_of((1, 1))
    shifted = {f"KL_{name}": value for name, value in batch.items()}
    loss = trainer.compute_loss(fixed([-10.0], [-14.0]), {**batch, **shifted, "label": torch.tensor([True, False])})
    assert loss.item() == pytest.approx(0.496250, abs=1e-6)


def test_kto_takes_answers_one_by_one(start: str, tmp_path: Path) -> None:
    trainer = trl_trainer("kto", TrainingConfig(), start, tmp_path, pairs(3))
    rows = list(trainer.train_dataset)
    assert sorted(row["label"] for row in rows) == [False] * 3 + [True] * 3
    words = {trainer.processing_class.decode(row["completion_ids"]) for row in rows if row["label"]}
    assert words == {"Warm water, slowly.</s>"}
    assert trainer.args.per_device_train_batch_size == 16


@pytest.mark.parametrize("objective", ["dpo", "lddpo"])
def test_the_start_models_log_probabilities_are_computed_once(objective: str, start: str, tmp_path: Path) -> None:
    """By loss, data and start model: LD-DPO weighs tokens, so its figures are its own."""
    data = dataset(tmp_path / "data", pairs(4))
    kept = tmp_path / ".references"
    train(data, start, tmp_path / "first", objective)
    files = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(files) == 1
    first = (tmp_path / "first" / "model.safetensors").read_bytes()
    train(data, start, tmp_path / "again", objective)
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == files
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    train(data, start, tmp_path / "other", "ipo")
    assert len(list(kept.iterdir())) == (1 if objective == "dpo" else 2)
    train(dataset(tmp_path / "more", pairs(5)), start, tmp_path / "more-pairs", objective)
    assert len(list(kept.iterdir())) == (2 if objective == "dpo" else 3)
