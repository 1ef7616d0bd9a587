"""Length-regularised DPO: length has its price, so that it is no way to win."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class RDpo(Loss):
    """R-DPO (Park et al. 2024, arXiv 2403.19159).

        loss = -log sigmoid(beta * [(log p(w) - log q(w)) - (log p(l) - log q(l))] + alpha * (|w| - |l|))

    p is the policy, q the frozen start model, w and l the chosen and the rejected answer, |y| its length in tokens.

    The sign: what is maximised is E[r(y) - alpha * |y|] - beta * KL(p, q), whose optimum is
    p(y) = q(y) * exp((r(y) - alpha * |y|) / beta) / Z. Solved for the reward, r(y) = beta * log(p(y) / q(y)) +
    alpha * |y| + const, and the Bradley-Terry likelihood of the preference is sigmoid(r(w) - r(l)): the length enters
    with a plus. Where the chosen answer is the longer one, part of its lead is put down to its length, and less is
    left for the policy to learn. (One public implementation subtracts it, which would reward length.)

    It is DPO against log q(y) - alpha / beta * |y|, and is computed so. The logged reward of an answer is r(y).
    Defaults: learning_rate 5e-7 and beta 0.01 (our DPO's), alpha 0.001. The paper states no training numbers.
    """

    title: ClassVar[str] = "R-DPO"
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.01, gt=0)
    """Strength of the pull towards the start model, per nat of log-ratio."""
    alpha: float = Field(default=0.001, ge=0)
    """Price of one token of length, in units of reward; 0 is DPO."""

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.referenced import trainer

        return trainer(setup, self, loss_type="sigmoid", length_price=self.alpha)
