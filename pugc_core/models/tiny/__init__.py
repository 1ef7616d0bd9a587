"""The bundled model: a very small Llama that plays every role of the pipeline on a CPU, and the script that made it."""

from __future__ import annotations

from pathlib import Path


def weights() -> Path:
    """The folder of the bundled model, an ordinary Hugging Face folder that any engine loads by path."""
    return Path(__file__).resolve().parent / "weights"
