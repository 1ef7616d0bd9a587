"""Length-desensitised DPO: what a longer answer says beyond the length of the shorter one counts less."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class LdDpo(Loss):
    """LD-DPO (Liu et al. 2024, arXiv 2409.06411).

        loss = -log sigmoid(beta * [(log p'(w) - log q'(w)) - (log p'(l) - log q'(l))])
        log p'(y) = sum of log p over the first m tokens + alpha * sum of log p over the rest

    m is the length of the shorter of the two answers. alpha 1 is DPO; alpha 0 looks at nothing beyond m.
    Defaults: learning_rate 5e-7 and beta 0.01 (our DPO's), alpha 0.5. The paper states no training numbers.
    """

    title: ClassVar[str] = "LD-DPO"
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.01, gt=0)
    """Strength of the pull towards the start model, per nat of log-ratio."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the tokens beyond the shorter answer's length."""

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.referenced import trainer

        return trainer(setup, self, loss_type="sigmoid", ld_alpha=self.alpha)
