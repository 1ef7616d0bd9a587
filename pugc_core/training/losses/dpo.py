"""Direct preference optimisation: raise the better answer over the worse one, measured against where we started."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from pugc_core.training.losses.base import LossConfig


class DpoConfig(LossConfig):
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate. 5e-7 is the alignment handbook's (zephyr-7b-dpo-full) and SimPO's for its DPO rows."""
    beta: float = Field(default=0.01, gt=0)
    """Strength of the pull towards the start model, per nat of log-ratio. 0.01 is the same two sources' value."""


class Dpo:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

        loss = -log sigmoid(beta * [(log p(w) - log q(w)) - (log p(l) - log q(l))])

    p is the policy, q the frozen start model, w and l the chosen and the rejected answer; log p sums over the
    answer's tokens. The logged reward of an answer is beta * (log p - log q), and the margin is their difference.
    Defaults: learning_rate 5e-7, beta 0.01. The paper states no training numbers; these are those of the recipes
    that it follows.
    """

    name = "dpo"

    def trainer(
        self,
        config: DpoConfig,
        *,
        arguments: Mapping[str, Any],
        model: Any,
        tokenizer: Any,
        train: Any,
        test: Any | None,
        callbacks: Sequence[Any],
    ) -> Any:
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer(
            model=model,
            # A copy in memory: TRL would load the reference anew by name, and lose the revision.
            ref_model=copy.deepcopy(model),
            args=DPOConfig(loss_type=["sigmoid"], beta=config.beta, learning_rate=config.learning_rate, **arguments),
            train_dataset=train,
            eval_dataset=test,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
