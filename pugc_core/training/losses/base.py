"""What a loss is to the trainer: a name, its knobs, and a TRL trainer made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import Field

from pugc_core.config import Config


class LossConfig(Config):
    """The knobs that every loss has; each loss gives them its own defaults."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate of the optimizer, reached after the warm-up."""
    beta: float = Field(gt=0)
    """Scale of the reward inside the log-sigmoid; no unit (it multiplies nats)."""


C = TypeVar("C", bound=LossConfig, contravariant=True)


class Loss(Protocol[C]):
    """One objective. Adding one is one file beside this one, a line in LOSSES and a field in TrainingConfig."""

    @property
    def name(self) -> str: ...

    def trainer(
        self,
        config: C,
        *,
        arguments: Mapping[str, Any],
        model: Any,
        tokenizer: Any,
        train: Any,
        test: Any | None,
        callbacks: Sequence[Any],
    ) -> Any:
        """A transformers.Trainer, ready to train.

        `arguments` are the transformers.TrainingArguments that all losses share, with `max_length`. `train` and
        `test` are datasets.Dataset with the columns prompt, chosen and rejected, every pair of which fits whole.
        """
        ...
