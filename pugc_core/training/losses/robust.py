"""Robust DPO: as DPO, for judges who are known to be wrong at times."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Robust(Loss):
    """Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409): an unbiased estimate of the DPO loss under flipped labels.

        loss = (-(1 - e) * log sigmoid(beta * d) + e * log sigmoid(-beta * d)) / (1 - 2 * e)

    d is the difference of the two answers' log-ratios, as in DPO, and e the share of pairs whose order is wrong. Its
    single terms may be negative; over all pairs it has the mean of the DPO loss without noise.
    Defaults: learning_rate 5e-7 and beta 0.01 (our DPO's), flipped 0.1. The paper states no training numbers.
    """

    title: ClassVar[str] = "robust DPO"
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.01, gt=0)
    """Strength of the pull towards the start model, per nat of log-ratio."""
    flipped: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of pairs that the judge has the wrong way round."""

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.referenced import trainer

        return trainer(setup, self, loss_type="robust", label_smoothing=self.flipped)
