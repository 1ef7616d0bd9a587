"""The knobs of a training that no loss owns. Importing this imports no torch.

The paper states no training numbers. The defaults are those of the recipes that it follows: SimPO's Mistral-Base
configuration and the alignment handbook's zephyr-7b DPO, which agree on everything here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pugc_core.config import Config
from pugc_core.errors import RecipeError
from pugc_core.training.losses import LOSSES, find
from pugc_core.training.losses.base import LossConfig
from pugc_core.training.losses.dpo import DpoConfig
from pugc_core.training.losses.simpo import SimpoConfig


class TrainingConfig(Config):
    objectives: tuple[str, ...] = ("dpo", "simpo")
    """Policies to train, one per objective; names of pugc_core.training.losses."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training pairs. 1 in both sources."""
    max_steps: int | None = Field(default=None, gt=0)
    """When set, stop after this many optimizer steps whatever `epochs` says."""
    batch_size: int = Field(default=128, gt=0)
    """Pairs per optimizer step, all devices and accumulated batches together. 128 in both sources."""
    device_batch_size: int = Field(default=8, gt=0)
    """Pairs in memory at once; gradient accumulation makes up the rest. Changes memory and speed, not the result."""
    max_length: int = Field(default=1024, gt=1)
    """Tokens of prompt and answer together; pairs that do not fit whole are dropped. 1024 in both sources (SimPO's
    Mistral-Instruct: 2048)."""
    scheduler: str = "cosine"
    """Shape of the learning rate after the warm-up, as transformers names it. Cosine in both sources."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0. 0.1 in both sources."""
    seed: int = 42
    """Seed of the order of the pairs and of everything random. 42 in both sources."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a fifth slower. On in both sources."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic of the forward and backward pass; weights and optimizer are always kept in fp32. bf16 in both sources.
    Falls back to fp32, and says so, where the machine has no bf16 GPU."""
    optimizer: str = "adamw_torch"
    """The optimizer, as transformers names it. adamw_torch in both sources."""
    dpo: DpoConfig = DpoConfig()
    """Knobs of the objective "dpo"."""
    simpo: SimpoConfig = SimpoConfig()
    """Knobs of the objective "simpo"."""

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for objective in value:
            find(objective)
        if len(set(value)) < len(value):
            raise ValueError(f"objectives {', '.join(value)} name one twice")
        return value

    @model_validator(mode="after")
    def _whole_batches(self) -> TrainingConfig:
        self.accumulation()
        return self

    def accumulation(self, devices: int = 1) -> int:
        """Batches accumulated per optimizer step, so that `batch_size` is kept whatever the number of devices."""
        at_once = self.device_batch_size * devices
        if self.batch_size % at_once:
            on = f" on {devices} devices" if devices > 1 else ""
            fits = max(d for d in range(1, self.batch_size + 1) if self.batch_size % d == 0 and d <= at_once)
            fix = f"set training.device_batch_size = {fits}, or" if devices == 1 else "use fewer devices, or"
            raise RecipeError(
                f"batch_size {self.batch_size} is not a multiple of device_batch_size {self.device_batch_size}{on}",
                fix=f"{fix} training.batch_size = {-(-self.batch_size // at_once) * at_once}",
            )
        return self.batch_size // at_once

    def loss(self, objective: str) -> LossConfig:
        """The knobs of one objective."""
        config: LossConfig = getattr(self, find(objective).name)
        return config

    def knobs(self, objective: str) -> dict[str, Any]:
        """Everything that shapes the training of one objective, JSON-able: what a fingerprint or a record holds."""
        shared = self.model_dump(mode="json", exclude={"objectives", *LOSSES})
        return {**shared, objective: self.loss(objective).model_dump(mode="json")}
