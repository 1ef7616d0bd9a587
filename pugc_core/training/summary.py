"""What came of a training, in plain numbers; crosses the process boundary as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pugc_core import storage
from pugc_core.intervals import Estimate

Report = Callable[[dict[str, Any]], None]
"""Is told {step, total, loss, margin, accuracy, learning_rate, tokens_per_second, ...} as the training goes on."""
Say = Callable[[str], object]
"""Is told in words what is done beside the steps."""


def unsaid(what: str) -> None:
    """Where nobody wants to know."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    objective: str
    steps: int
    """Optimizer steps made."""
    n_train: int
    """Pairs to train on, after the drop."""
    n_test: int
    """Held-out pairs, after the drop."""
    dropped_too_long: int
    """Pairs of either split that do not fit whole in max_length tokens."""
    dropped: dict[str, int]
    """The same by reason: prompt_too_long (no answer would fit), pair_too_long."""
    pairs_trained: int
    """Pairs seen, counting every pass."""
    tokens_per_epoch: int
    """Tokens of one pass over the training pairs, prompts counted with both answers."""
    seconds: float
    """Wall time, loading and saving included; of the last start alone where it was resumed."""
    resumed_at: int
    """The step that it went on from, 0 where it went through at once."""
    devices: int
    """Processes that trained together, a device each."""
    tokens_per_second: float
    """Tokens of prompts and answers through the training steps, padding not counted, loading and saving neither."""
    final: dict[str, float]
    """Mean loss, margin and accuracy (not for KTO) of the last pass over the training pairs, while it went on."""
    curve: list[dict[str, float]]
    """step, loss, margin, accuracy (not for KTO), learning_rate, rows; each row averages what was trained on since the
    row before: so many rows, which are pairs, or for KTO answers."""
    device: str
    """cpu or cuda."""
    precision: str
    """bf16 or fp32, as it was trained."""
    notes: list[str]
    """What differs from the configuration, in words."""
    held_out: dict[str, Estimate] = field(default_factory=dict)
    """Accuracy, margin and loss of the trained policy over the held-out pairs, and gain: the mean, over these pairs, of
    the trained policy's margin less the start's. Empty where there are none; older records have no gain."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Summary:
        """From JSON: what crossed the process boundary, or the record in a policy's folder."""
        values = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        held_out = {name: Estimate(**figures) for name, figures in record.get("held_out", {}).items()}
        return cls(**{**values, "held_out": held_out})

    @property
    def headline(self) -> str:
        """What a reader should see first: how it does on pairs that it was not trained on, and on how many."""
        if not self.held_out:
            return "no held-out pairs, so nothing is known of others than those it was trained on"
        accuracy, gain = self.held_out["accuracy"], self.held_out.get("gain")
        gained = f", reward gain {gain}" if gain else ""
        return f"held-out accuracy {accuracy}{gained} on {accuracy.n} pairs"

    @classmethod
    def recorded(cls, folder: str) -> Summary | None:
        """Of the policy in a folder; None where there is none, or one whose record this version cannot read."""
        try:
            return cls.of(json.loads(storage.read(storage.join(folder, "training.json"))))
        except (FileNotFoundError, ValueError, TypeError):
            return None
