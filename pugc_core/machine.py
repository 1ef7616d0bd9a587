"""What this machine has."""

from __future__ import annotations

from pathlib import Path


def gpus() -> bool:
    """Whether there is an NVIDIA GPU; asked without importing torch."""
    return Path("/dev/nvidiactl").exists()
