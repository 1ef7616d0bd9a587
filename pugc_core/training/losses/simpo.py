"""Simple preference optimisation: no reference model, and the reward is the mean log-probability per token."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from pugc_core.training.losses.base import Loss, Setup


class Simpo(Loss):
    """SimPO (Meng et al. 2024, arXiv 2405.14734, equation 6).

        loss = -log sigmoid(beta * [mean log p(w) - mean log p(l) - gamma/beta])

    p is the policy, w and l the chosen and the rejected answer; the mean is over the answer's tokens, so that length
    earns nothing. The logged reward of an answer is beta * mean log p; the margin does not have gamma taken off.
    Defaults: learning_rate 3e-7, beta 2.0, gamma/beta 0.8 (SimPO's Mistral-Base). The paper states no training
    numbers.

    TRL computes it in its CPO trainer, which adds a likelihood term unless `cpo_alpha` is 0.
    """

    title: ClassVar[str] = "SimPO"
    learning_rate: float = Field(default=3e-7, gt=0)
    """Peak learning rate. 3e-7 is SimPO's for Mistral-Base; its Mistral-Instruct takes 5e-7."""
    beta: float = Field(default=2.0, gt=0)
    """Scale of the reward, per nat of mean log-probability. 2.0 is SimPO's for Mistral-Base; Instruct takes 2.5."""
    gamma_beta_ratio: float = Field(default=0.8, ge=0)
    """Margin wanted between the mean log-probabilities, nats per token. 0.8 is Mistral-Base's; Instruct takes 0.1."""

    @property
    def simpo_gamma(self) -> float:
        """The margin as TRL wants it: its loss divides `simpo_gamma` by `beta`."""
        return self.beta * self.gamma_beta_ratio

    def trainer(self, setup: Setup) -> Any:
        from pugc_core.training.losses.cpo import cpo_trainer

        return cpo_trainer(setup, self, loss_type="simpo", cpo_alpha=0.0, simpo_gamma=self.simpo_gamma)
