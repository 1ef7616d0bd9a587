"""What watches a training from inside: progress reports, whole checkpoints, and the stop when numbers go wrong."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import PartialState
from transformers import TrainerCallback

from pugc_core.errors import TrainingError
from pugc_core.training.output import mark_whole
from pugc_core.training.summary import Report, Say

DIVERGED = "lower the learning rate, set precision to fp32, and check that the start model writes sensible text"
_NAMES = {
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
    "learning_rate": "learning_rate",
    "rows": "rows",
}


def curve(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """A trainer's log as rows of step, loss, margin, accuracy, learning_rate, rows; what a loss does not log is left
    out."""
    wanted = ("loss", "margin", "accuracy", "learning_rate", "rows")
    return [
        {"step": row["step"], **{name: row[_NAMES[name]] for name in wanted if _NAMES[name] in row}}
        for row in history
        if "loss" in row
    ]


class Before(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Measures the held-out pairs under the start model, before the first step, and keeps their margins beside the
    checkpoints, for when the training is killed and goes on."""

    def __init__(self, trainer: Any, folder: Path, say: Say) -> None:
        self._trainer = trainer
        self._path = folder / "start.json"
        self._say = say

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            return
        self._say(f"the start model on {len(self._trainer.eval_dataset)} held-out pairs: less than a pass of training")
        pairs = self._trainer.held_out()
        if state.is_world_process_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps((pairs[:, 1] - pairs[:, 2]).tolist()), encoding="utf-8")
        PartialState().wait_for_everyone()

    @property
    def margins(self) -> npt.NDArray[np.float64] | None:
        """Of the held-out pairs under the start model; None where the training began before they were kept."""
        if not self._path.is_file():
            return None
        return np.array(json.loads(self._path.read_text(encoding="utf-8")), dtype=np.float64)


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Reports progress, marks checkpoints as whole when they are, and raises TrainingError at the first loss that is
    no finite number. `tokens` is the mean number of tokens of a step."""

    def __init__(self, report: Report, tokens: float) -> None:
        self.seconds = 0.0
        self.steps = 0
        self._report = report
        self._tokens = tokens
        self._began = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self._tokens * self.steps / self.seconds if self.seconds else 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds += time.monotonic() - self._began
        self.steps += 1
        # No checkpoint of numbers that nobody looked at; and what is averaged in the log begins anew with each.
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise TrainingError(f"{name} became {logs[name]} at step {state.global_step}", fix=DIVERGED)
        if state.is_world_process_zero:
            told = {name: logs[key] for name, key in _NAMES.items() if key in logs and name != "rows"}
            speed = round(self.tokens_per_second, 1)
            self._report({"step": state.global_step, "total": state.max_steps, **told, "tokens_per_second": speed})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes a file of its own into it
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")
