"""Binary classifier optimisation: each answer is judged for itself as good or bad, in the paired form."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Bco(Loss):
    """BCO (Jung et al. 2024, arXiv 2404.04656), for pairs and without its running shift of the reward.

        loss = -log sigmoid(beta * [log p(w) - log q(w)]) - log sigmoid(-beta * [log p(l) - log q(l)])

    p is the policy, q the frozen start model, w and l the chosen and the rejected answer. Unlike in DPO it is not
    enough that the margin grows: the chosen answer must become likelier and the rejected one less likely.
    Defaults: learning_rate 5e-7 and beta 0.01 (our DPO's). The paper states no training numbers.
    """

    title: ClassVar[str] = "BCO"
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.01, gt=0)
    """Scale of the reward, per nat of log-ratio."""

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.referenced import trainer

        return trainer(setup, self, loss_type="bco_pair")
