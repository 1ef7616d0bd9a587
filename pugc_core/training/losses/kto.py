"""Kahneman-Tversky optimisation: answers one by one, as good or bad, and no pairs."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Kto(Loss):
    """KTO (Ethayarajh et al. 2024, arXiv 2402.01306, equation 7).

        loss(w) = good * (1 - sigmoid(beta * [log p(w) - log q(w) - z]))
        loss(l) = bad  * (1 - sigmoid(beta * [z - log p(l) + log q(l)]))
        z = max(0, mean of log p - log q over answers put to other prompts)

    p is the policy, q the frozen start model, w and l a chosen and a rejected answer, each a row of its own: a pair
    gives two, in an order drawn from the seed. z estimates how far the policy has moved, from the answers of the same
    batch shifted by one, `device_batch_size` pairs on each device. The logged margin is the difference of the mean
    rewards; with no pairs in training there is no accuracy. Held-out answers are measured in pairs again, with one z
    for all of them.
    Defaults: learning_rate 5e-7, beta 0.01 (our DPO's), weights 1. The paper states no training numbers.
    """

    title: ClassVar[str] = "KTO"
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.01, gt=0)
    """Scale of the reward, per nat of log-ratio."""
    good: float = Field(default=1.0, gt=0)
    """Weight of the chosen answers."""
    bad: float = Field(default=1.0, gt=0)
    """Weight of the rejected answers."""

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.unpaired import trainer

        return trainer(
            setup,
            learning_rate=self.learning_rate,
            beta=self.beta,
            desirable_weight=self.good,
            undesirable_weight=self.bad,
        )
