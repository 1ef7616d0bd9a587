"""The base of every configuration model: frozen, and an unknown key is an error that names the known ones."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen block of knobs; each component defines its own beside its code."""

    # What was given may be a secret, and errors end up in logs.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


def digest(value: Any) -> str:
    """Twelve hex digits over a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
