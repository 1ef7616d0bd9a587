"""The curves of a training as a small picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence


def curves(curve: Sequence[Mapping[str, float]], title: str) -> bytes:
    """A PNG (about 30 kB) of loss, reward margin and accuracy over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), dpi=80, layout="constrained")
    steps = [row["step"] for row in curve]
    for axes, name, colour in zip(
        figure.subplots(1, 3), ("loss", "margin", "accuracy"), ("#4c6ef5", "#2f9e44", "#e8590c"), strict=True
    ):
        axes.plot(steps, [row[name] for row in curve], color=colour, marker="." if len(steps) < 30 else "")
        axes.set_title(f"{title}: {name}", fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
