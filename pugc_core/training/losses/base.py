"""What a loss is to the trainer: its knobs, and a TRL trainer made from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from pugc_core.config import Config
from pugc_core.training.summary import Say, unsaid


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every loss makes its trainer from."""

    arguments: Mapping[str, Any]
    """The transformers.TrainingArguments that all losses share, with `max_length`."""
    model: Any
    tokenizer: Any
    train: Any
    """datasets.Dataset with the columns prompt_ids, chosen_ids and rejected_ids, every pair of which fits whole."""
    test: Any | None
    callbacks: Sequence[Any]
    references: Path | None = None
    """Folder in which log-probabilities of the start model are kept, for the next objective on the same pairs."""
    adapter: Any | None = None
    """A peft.LoraConfig, or None to train all weights."""
    say: Say = unsaid
    """Is told in words what is done before the first step."""

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that all of TRL's trainers take under the same names."""
        return {
            "model": self.model,
            "train_dataset": self.train,
            "eval_dataset": self.test,
            "processing_class": self.tokenizer,
            "callbacks": list(self.callbacks),
            "peft_config": self.adapter,
        }


class Loss(Config):
    """One objective: its knobs, which come from the recipe, and how it is trained. Adding one is one file beside this
    one and a line in TrainingConfig."""

    title: ClassVar[str]
    """How people write its name."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate of the optimizer, reached after the warm-up."""
    beta: float = Field(gt=0)
    """Scale of the reward; no unit (it multiplies nats)."""

    @abstractmethod
    def trainer(self, setup: Setup) -> Any:
        """A pairwise.Pairwise trainer, ready to train. It logs rewards/margins, and rewards/accuracies where that has a
        meaning, and has the learning rate of this loss."""
