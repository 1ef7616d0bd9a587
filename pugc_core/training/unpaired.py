"""TRL's KTO trainer: answers one by one. Held-out answers are put together again, pair by pair."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from trl import KTOConfig, KTOTrainer, unpair_preference_dataset
from trl.trainer.utils import use_adapter

from pugc_core.training.losses.base import Setup
from pugc_core.training.pairwise import Measured, Pairwise, mean

_NAMES = {"prompt": "prompt_ids", "completion": "completion_ids"}


class UnpairedTrainer(Pairwise, KTOTrainer):  # type: ignore[misc]  # trl is untyped
    """A row is an answer."""

    def __init__(self, **options: Any) -> None:
        self._sides: list[tuple[int, int]] = []
        super().__init__(**options)

    def rows(self, batch: dict[str, Any]) -> int:
        return len(batch["label"])

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        chosen = inputs["label"].sum().to(self.accelerator.device)
        sides = torch.stack([chosen, self.rows(inputs) - chosen])
        good, bad = self.accelerator.gather(sides).view(-1, 2).sum(0).tolist()
        self._sides.append((good, bad))
        return super().training_step(model, inputs, num_items_in_batch)

    def weigh(self, metrics: dict[str, dict[str, list[float]]]) -> None:
        """A batch may hold answers of one side only, and then has no figures of the other."""
        train = metrics["train"]
        for side, counts in zip(("chosen", "rejected"), zip(*self._sides, strict=True), strict=True):
            present = [count for count in counts if count]
            if present:
                train[f"rewards/{side}"] = [mean(train[f"rewards/{side}"], present)]
        train.pop("rewards/margins", None)
        if all(train.get(f"rewards/{side}") for side in ("chosen", "rejected")):
            train["rewards/margins"] = [train["rewards/chosen"][0] - train["rewards/rejected"][0]]
        self._sides = []
        super().weigh(metrics)

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[None, Any, None]:
        """The log-ratios of an answer to its own prompt and to another one; shape (rows, 2)."""
        inputs = self._prepare_inputs(inputs)
        start, adapter = self.ref_model, contextlib.nullcontext()
        if start is None:
            start, adapter = model, use_adapter(self.accelerator.unwrap_model(self.model), adapter_name=None)
        with torch.no_grad(), self.compute_loss_context_manager():
            now = self._both(model, inputs)
            with adapter:
                return None, (now - self._both(start, inputs)).float(), None

    def _both(self, model: Any, inputs: dict[str, Any]) -> Any:
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        own = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            labels=labels,
            fused_lm_head=True,
        ).log_probs.sum(-1)
        return torch.stack([own, self._compute_kl_logps(model, inputs)], dim=1)

    def measured(self, predictions: npt.NDArray[Any]) -> Measured:
        ratios = self.beta * predictions.astype(np.float64)
        chosen, rejected = np.split(ratios[:, 0], 2)
        z = max(0.0, ratios[:, 1].mean())
        losses = (self.desirable_weight * _lost(chosen - z) + self.undesirable_weight * _lost(z - rejected)) / 2
        return np.stack([losses, chosen, rejected], axis=1)


def trainer(setup: Setup, **knobs: float) -> UnpairedTrainer:
    """With `knobs` of TRL's KTOConfig."""
    arguments = dict(setup.arguments)
    arguments["per_device_train_batch_size"] *= 2  # a pair is two rows, so as many pairs are in a step as elsewhere
    at_once = arguments["per_device_eval_batch_size"] = arguments["per_device_train_batch_size"]
    answers = unpaired(setup.train).shuffle(seed=arguments["seed"])
    held_out = unpaired(setup.test, batch_size=None) if setup.test else None
    rows = {
        # TRL estimates z within the batches as they lie, from answers put to the prompt of the next row.
        "train_dataset": answers.map(_shifted, batched=True, batch_size=at_once),
        "eval_dataset": held_out.map(_shifted, batched=True, batch_size=None) if held_out else None,
    }
    return UnpairedTrainer(
        ref_model=None if setup.adapter else copy.deepcopy(setup.model),
        args=KTOConfig(train_sampling_strategy="sequential", **arguments, **knobs),
        **{**setup.given, **rows},
    )


def unpaired(pairs: Any, batch_size: int | None = 1000) -> Any:
    """Rows of prompt_ids, completion_ids and label: the chosen answers (True) of so many pairs (None: of all), then
    their rejected ones, and so on."""
    named = pairs.rename_columns({f"{name}_ids": name for name in ("prompt", "chosen", "rejected")})
    return unpair_preference_dataset(named, batch_size=batch_size).rename_columns(_NAMES)


def _shifted(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    answers = rows["completion_ids"]
    return {"KL_completion_ids": [answers[-1], *answers[:-1]]}


def _lost(gained: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 - 1 / (1 + np.exp(-gained))
