"""What watches a training from inside: the curve, the progress reports, and the stop when numbers go wrong."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback

from pugc_core.errors import TrainingError
from pugc_core.training.summary import Report

DIVERGED = "lower the learning rate, set precision to fp32, and check that the start model writes sensible text"


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Collects the curve, reports progress and raises TrainingError at the first loss that is no finite number."""

    def __init__(self, report: Report) -> None:
        self.curve: list[dict[str, float]] = []
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise TrainingError(f"{name} became {logs[name]} at step {state.global_step}", fix=DIVERGED)
        point = {
            "step": state.global_step,
            "loss": logs["loss"],
            "margin": logs["rewards/margins"],
            "accuracy": logs["rewards/accuracies"],
            "learning_rate": logs["learning_rate"],
        }
        self.curve.append(point)
        progress = {name: point[name] for name in ("loss", "margin", "accuracy")}
        self._report({"step": state.global_step, "total": state.max_steps, **progress})
