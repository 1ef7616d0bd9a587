"""The objectives, one line each. Importing them imports no torch."""

from __future__ import annotations

from typing import Any

from pugc_core.errors import RecipeError
from pugc_core.training.losses.base import Loss
from pugc_core.training.losses.dpo import Dpo
from pugc_core.training.losses.simpo import Simpo

LOSSES: dict[str, Loss[Any]] = {
    "dpo": Dpo(),
    "simpo": Simpo(),
}


def find(objective: str) -> Loss[Any]:
    """The loss of that name; RecipeError naming the known ones when there is none."""
    if objective not in LOSSES:
        known = ", ".join(LOSSES)
        raise RecipeError(f"unknown objective {objective!r}; known: {known}", fix=f"take one of: {known}")
    return LOSSES[objective]
