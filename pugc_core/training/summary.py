"""What came of a training, in plain numbers; crosses the process boundary as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Report = Callable[[dict[str, Any]], None]
"""Is told {step, total, loss, margin, accuracy, learning_rate, tokens_per_second, ...} as the training goes on."""


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
    """Mean loss, margin and accuracy of the last pass; with a test split also test_loss, test_margin, test_accuracy."""
    curve: list[dict[str, float]]
    """step, loss, margin, accuracy (not for KTO), learning_rate; each row averages the steps since the row before."""
    device: str
    """cpu or cuda."""
    precision: str
    """bf16 or fp32, as it was trained."""
    notes: list[str]
    """What differs from the configuration, in words."""
