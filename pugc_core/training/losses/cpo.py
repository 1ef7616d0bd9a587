"""Contrastive preference optimisation: DPO without reference model, held in place by imitating the chosen answer."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Cpo(Loss):
    """CPO (Xu et al. 2024, arXiv 2401.08417, equations 3 to 5).

        loss = -log sigmoid(beta * [log p(w) - log p(l)]) - alpha * mean log p(w)

    p is the policy, w and l the chosen and the rejected answer; log p sums over the answer's tokens, and the mean is
    over them. (TRL takes that mean over all chosen answers in memory together.) The logged reward of an answer is
    beta * log p.
    Defaults: learning_rate 1e-6, beta 0.1, alpha 1.0 (TRL's). The paper states no training numbers.
    """

    title: ClassVar[str] = "CPO"
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the reward, per nat of log-probability."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of the likelihood term."""

    def trainer(self, setup: Setup) -> Any:
        return cpo_trainer(setup, self, loss_type="sigmoid", cpo_alpha=self.alpha)


def cpo_trainer(setup: Setup, loss: Loss, **options: Any) -> Any:
    """TRL's CPO trainer, which SimPO is a setting of."""
    from trl.experimental.cpo import CPOConfig

    from pugc_core.training.unreferenced import CpoTrainer, given

    return CpoTrainer(
        args=CPOConfig(
            beta=loss.beta,
            learning_rate=loss.learning_rate,
            remove_unused_columns=False,
            **options,
            **setup.arguments,
        ),
        **given(setup),
    )
