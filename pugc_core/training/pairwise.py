"""What TRL's trainers have in common here: they take our tokens, every pair counts the same, and held-out pairs are
measured one by one.

TRL averages over batches: a batch of one pair at the end of a pass would count as much as a full one, in the update, in
the log and in the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

Measured = npt.NDArray[np.float64]
"""Loss, reward of the chosen and reward of the rejected answer of each pair; shape (pairs, 3)."""


class Pairwise(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Goes before a trainer of TRL's among the bases. The data sets come with their tokens, as tokens.pair_ids makes
    them. A subclass says what a row is, and gives prediction_step."""

    loss_is_scaled_for_ga = True  # by compute_loss below
    start_has_rewards = False
    """Whether answers have a reward under the start model too; not where rewards are measured against it, and so 0."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._counts: list[int] = []
        self._losses: Any = 0.0
        super().__init__(*args, **options)

    def rows(self, batch: dict[str, Any]) -> int:
        """The rows of a batch: pairs, unless the loss takes answers one by one."""
        raise NotImplementedError

    def measured(self, predictions: npt.NDArray[Any]) -> Measured:
        """What prediction_step gave for every row, in the order of the data set, pair by pair."""
        return predictions.astype(np.float64)

    def held_out(self) -> Measured:
        """The held-out pairs, each exactly once, however many processes share them."""
        return self.measured(np.asarray(self.predict(self.eval_dataset).predictions))

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    @staticmethod
    def tokenize_row(row: dict[str, Any], model: Any = None) -> dict[str, Any]:
        return {}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(self.rows(batch) for batch in batches), device=device)
        return batches, self.accelerator.gather(rows).sum()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The batch's share of the mean over all rows of the optimizer step; gradients are averaged over processes."""
        loss = super().compute_loss(model, inputs)
        if num_items_in_batch is None:
            return loss
        return loss * (self.rows(inputs) * self.accelerator.num_processes / num_items_in_batch)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        self._counts.append(self.rows(inputs))
        # In the last step of a pass it would cut what is logged of every batch to the size of the last one.
        self.accelerator.gather_for_metrics = self.accelerator.gather
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        finally:
            del self.accelerator.gather_for_metrics
        self._losses += loss.double() * num_items_in_batch / self.accelerator.num_processes
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            told = torch.stack([self._losses, torch.full_like(self._losses, sum(self._counts))])
            total, rows = self.accelerator.gather(told).view(-1, 2).sum(0).tolist()
            logs |= {"loss": total / rows, "rows": rows}
            self.weigh(getattr(self, "_metrics", None) or self._stored_metrics)
            self._counts, self._losses = [], 0.0
        super().log(logs, start_time)

    def weigh(self, metrics: dict[str, dict[str, list[float]]]) -> None:
        """Put the mean over rows into the place of the figures by batch, of which TRL's log takes the mean."""
        for name, values in metrics["train"].items():
            if len(values) == len(self._counts):
                metrics["train"][name] = [mean(values, self._counts)]


def mean(values: Sequence[float], counts: Sequence[int]) -> float:
    """The mean of batch means over batches of so many rows."""
    return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
