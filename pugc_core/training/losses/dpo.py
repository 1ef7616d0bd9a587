"""Direct preference optimisation: raise the better answer over the worse one, measured against where we started."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Dpo(Loss):
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

        loss = -log sigmoid(beta * [(log p(w) - log q(w)) - (log p(l) - log q(l))])

    p is the policy, q the frozen start model, w and l the chosen and the rejected answer; log p sums over the
    answer's tokens. The logged reward of an answer is beta * (log p - log q), and the margin is their difference.
    Defaults: learning_rate 5e-7, beta 0.01. The paper states no training numbers; these are those of the recipes
    that it follows.
    """

    title: ClassVar[str] = "DPO"
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate. 5e-7 is the alignment handbook's (zephyr-7b-dpo-full) and SimPO's for its DPO rows."""
    beta: float = Field(default=0.01, gt=0)
    """Strength of the pull towards the start model, per nat of log-ratio. 0.01 is the same two sources' value."""

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.referenced import trainer

        return trainer(setup, self, loss_type="sigmoid")
