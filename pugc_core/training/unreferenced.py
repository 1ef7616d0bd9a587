"""TRL's trainers of the losses without a start model: CPO, of which SimPO is a setting, and ORPO.

Both have a likelihood term, which TRL takes per token of whatever answers share a batch. Here it is taken per token of
each answer, and pairs count the same, so that the update does not depend on which pairs were in memory together.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from pugc_core.training.losses.base import Setup
from pugc_core.training.pairwise import Pairwise

_IGNORED = -100


class _Alone(Pairwise):
    """What the two share."""

    start_has_rewards = True
    _rewards: Any

    def rows(self, batch: dict[str, Any]) -> int:
        return len(batch["chosen_labels"])

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[None, Any, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, _metrics = self.get_batch_loss_metrics(model, inputs, "eval")  # of one pair
        return None, torch.cat([loss.view(1), *self._rewards]).float()[None], None


class CpoTrainer(_Alone, CPOTrainer):  # type: ignore[misc]  # trl is untyped
    def cpo_loss(self, chosen: Any, rejected: Any) -> Any:
        losses, *self._rewards = super().cpo_loss(chosen, rejected)
        return losses, *self._rewards

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> Any:
        chosen, rejected, chosen_logits, rejected_logits, nll, *rest = super().concatenated_forward(model, batch)
        if self.cpo_alpha:
            nll = -(chosen / (batch["chosen_labels"][:, 1:] != _IGNORED).sum(1)).mean()
        return chosen, rejected, chosen_logits, rejected_logits, nll, *rest


class OrpoTrainer(_Alone, ORPOTrainer):  # type: ignore[misc]  # trl is untyped
    def odds_ratio_loss(self, chosen: Any, rejected: Any) -> Any:
        losses, chosen_rewards, rejected_rewards, *rest = super().odds_ratio_loss(chosen, rejected)
        self._rewards = chosen_rewards, rejected_rewards
        return losses, chosen_rewards, rejected_rewards, *rest

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> Any:
        chosen, rejected, chosen_logits, rejected_logits, _, *rest = super().concatenated_forward(model, batch)
        labels = batch["chosen_input_ids"].masked_fill(batch["chosen_attention_mask"] == 0, _IGNORED)[:, 1:]
        logits = chosen_logits[:, : labels.shape[1]]  # padded to the longer of the two answers
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        nll = (each.sum(1) / (labels != _IGNORED).sum(1)).mean()
        return chosen, rejected, chosen_logits, rejected_logits, nll, *rest


def given(setup: Setup) -> dict[str, Any]:
    """The arguments that both take, with the pairs in the columns that they are used to."""
    rows = {
        name: pairs.map(_labelled, remove_columns=pairs.column_names) if pairs is not None else None
        for name, pairs in (("train_dataset", setup.train), ("eval_dataset", setup.test))
    }
    return {**setup.given, **rows}


def _labelled(pair: dict[str, Any]) -> dict[str, list[int]]:
    row = {}
    for side in ("chosen", "rejected"):
        prompt, answer = pair["prompt_ids"], pair[f"{side}_ids"]
        row[f"{side}_input_ids"] = prompt + answer
        row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
        row[f"{side}_labels"] = [_IGNORED] * len(prompt) + answer
    return row
