"""Odds ratio preference optimisation: imitation of the chosen answer with a small push away from the rejected one."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Orpo(Loss):
    """ORPO (Hong et al. 2024, arXiv 2403.07691, equations 6 and 7), where beta is the paper's lambda.

        loss = -mean log p(w) - beta * log sigmoid(log odds(w) - log odds(l))
        odds(y) = P / (1 - P),  log P = mean log p(y)

    p is the policy, w and l the chosen and the rejected answer; means are over the answer's tokens, but that of the
    first term, as in TRL, over the prompt's tokens too. There is no reference model: the first term holds the policy in
    place. The logged reward of an answer is beta * mean log p.
    Defaults: learning_rate 5e-6, beta 0.05 (the alignment handbook's Mixtral-8x22B ORPO). The paper states no training
    numbers.
    """

    title: ClassVar[str] = "ORPO"
    learning_rate: float = Field(default=5e-6, gt=0)
    """Peak learning rate."""
    beta: float = Field(default=0.05, gt=0)
    """Weight of the odds ratio against the likelihood."""

    def trainer(self, setup: Setup) -> Any:
        from trl.experimental.orpo import ORPOConfig

        from pugc_core.training.unreferenced import OrpoTrainer, given

        return OrpoTrainer(
            args=ORPOConfig(
                beta=self.beta, learning_rate=self.learning_rate, remove_unused_columns=False, **setup.arguments
            ),
            **given(setup),
        )
