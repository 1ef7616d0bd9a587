"""The knobs of a training that no loss owns. Importing this imports no torch.

The paper states no training numbers. The defaults are those of the recipes that it follows: SimPO's Mistral-Base
configuration and the alignment handbook's zephyr-7b DPO, which agree on everything here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pugc_core.config import Config
from pugc_core.errors import RecipeError
from pugc_core.training.losses.base import Loss
from pugc_core.training.losses.bco import Bco
from pugc_core.training.losses.cpo import Cpo
from pugc_core.training.losses.dpo import Dpo
from pugc_core.training.losses.ipo import Ipo
from pugc_core.training.losses.kto import Kto
from pugc_core.training.losses.lddpo import LdDpo
from pugc_core.training.losses.orpo import Orpo
from pugc_core.training.losses.rdpo import RDpo
from pugc_core.training.losses.robust import Robust
from pugc_core.training.losses.simpo import Simpo

VERSION = "2"
"""Of the training code: raised when the same pairs and knobs give another policy than before. 2: the tokens that were
sampled are trained, and every pair counts the same."""


class Lora(Config):
    """Train small matrices beside the weights (Hu et al. 2021, arXiv 2106.09685) and merge them at the end."""

    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    """Scale: what the matrices give is multiplied by alpha / rank."""
    targets: str | tuple[str, ...] = "all-linear"
    """Modules that get them, as peft names them."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Times the learning rate of the loss, which is meant for all weights; so few of them need larger steps. 10 lies
    between the alignment handbook's two recipes for DPO (zephyr-7b-dpo-qlora 5e-6, zephyr-7b-dpo-full 5e-7)."""
    quantize: bool = False
    """Hold the start model in 4 bits meanwhile (QLoRA, Dettmers et al. 2023, arXiv 2305.14314); needs a GPU."""


class Launch(Config):
    """How the training is started; changes its speed and memory, not its result."""

    processes: int = Field(1, gt=0)
    """Devices to train on, a process each."""
    config: str = "ddp"
    """`ddp` (a whole model on each device), `fsdp`, `zero3` (shares of it on each), or an accelerate config file."""
    checkpoints: float = Field(0.1, gt=0, le=1)
    """A checkpoint after this share of the steps, from which a training that was killed goes on; 1 makes none."""


class TrainingConfig(Config):
    objectives: tuple[str, ...] = ("dpo", "simpo")
    """Policies to train, one per objective: names of the losses below."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training pairs. 1 in both sources."""
    max_steps: int | None = Field(default=None, gt=0)
    """When set, stop after this many optimizer steps whatever `epochs` says."""
    batch_size: int = Field(default=128, gt=0)
    """Pairs per optimizer step, all devices and accumulated batches together. 128 in both sources."""
    device_batch_size: int = Field(default=8, gt=0)
    """Pairs in memory at once; gradient accumulation makes up the rest. Changes memory and speed, not the result: every
    pair of a step counts the same, and its loss is its own. Except for KTO, whose z is estimated from the answers that
    are in memory at once, on all devices."""
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
    lora: Lora | None = None
    """When set, LoRA instead of all weights. `lora = {}` takes its defaults."""
    launch: Launch = Launch()
    """On which and how many devices."""

    push_to: str = ""
    """Repositories of the hub to upload the policies to, as `owner/name`: each gets its objective as an ending. Private
    where they are new. Empty uploads nothing."""

    # The losses, one line each: the name of the objective, and its knobs at their defaults.
    dpo: Dpo = Dpo()
    simpo: Simpo = Simpo()
    orpo: Orpo = Orpo()
    kto: Kto = Kto()
    cpo: Cpo = Cpo()
    rdpo: RDpo = RDpo()
    robust: Robust = Robust()
    ipo: Ipo = Ipo()
    bco: Bco = Bco()
    lddpo: LdDpo = LdDpo()

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for objective in value:
            cls._of(objective)
        if len(set(value)) < len(value):
            raise ValueError(f"objectives {', '.join(value)} name one twice")
        return value

    @model_validator(mode="after")
    def _whole_batches(self) -> TrainingConfig:
        self.accumulation(self.launch.processes)
        return self

    @model_validator(mode="after")
    def _mergeable(self) -> TrainingConfig:
        if self.lora and self.launch.config == "zero3":
            raise RecipeError(
                "training.lora cannot be merged into weights that DeepSpeed holds in shares",
                fix='set training.launch.config = "fsdp" or "ddp"',
            )
        return self

    @model_validator(mode="after")
    def _one_precision(self) -> TrainingConfig:
        if self.precision == "fp32" and self.launch.config == "zero3":
            raise RecipeError(
                "training.precision fp32 contradicts training.launch.config zero3, which sets DeepSpeed to bf16",
                fix='set training.precision = "bf16", or training.launch.config = "fsdp" or "ddp"',
            )
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

    @classmethod
    def losses(cls) -> list[str]:
        """The names of all objectives."""
        return [name for name, field in cls.model_fields.items() if isinstance(field.default, Loss)]

    @classmethod
    def _of(cls, objective: str) -> str:
        if objective not in (known := cls.losses()):
            names = ", ".join(known)
            raise RecipeError(f"unknown objective {objective!r}; known: {names}", fix=f"take one of: {names}")
        return objective

    def loss(self, objective: str) -> Loss:
        """One objective with its knobs. Raises RecipeError for a name that is none."""
        loss: Loss = getattr(self, self._of(objective))
        return loss

    def as_trained(self, objective: str) -> Loss:
        """The same with the learning rate that it is trained with, which LoRA multiplies."""
        loss = self.loss(objective)
        factor = self.lora.learning_rate_factor if self.lora else 1.0
        return loss.model_copy(update={"learning_rate": loss.learning_rate * factor})

    def knobs(self, objective: str) -> dict[str, Any]:
        """Everything that shapes the training of one objective, JSON-able: what a fingerprint or a record holds."""
        shared = self.model_dump(mode="json", exclude={"objectives", "launch", "push_to", *self.losses()})
        if self.lora is None:
            del shared["lora"]  # so that policies from before there was a choice stay current
        return {**shared, objective: self.loss(objective).model_dump(mode="json")}
