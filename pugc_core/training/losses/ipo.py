"""Identity preference optimisation: a margin to reach rather than one to widen for ever."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Ipo(Loss):
    """IPO (Azar et al. 2023, arXiv 2310.12036, equation 17), where beta is the paper's tau.

        loss = ([mean log p(w) - mean log q(w)] - [mean log p(l) - mean log q(l)] - 1 / (2 * beta)) ** 2

    p is the policy, q the frozen start model, w and l the chosen and the rejected answer. TRL takes means over the
    tokens of an answer where the paper has sums, as its authors advise, so that length does not scale the loss. The
    logged reward of an answer is beta times its summed log-ratio, as for DPO.
    Defaults: learning_rate 5e-7 (our DPO's), beta 0.1 (TRL's). The paper states no training numbers.
    """

    title: ClassVar[str] = "IPO"
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.1, gt=0)
    """Regularisation: the margin aimed at is 1 / (2 * beta), in nats per token."""

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.referenced import trainer

        return trainer(setup, self, loss_type="ipo")
