"""Pictures of data sets and trainings, as PNG for the web UI and as SVG for the report. Drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from pugc_core.intervals import Estimate
from pugc_core.stages.measures import BANDS, Measures, banded
from pugc_core.stages.records import Counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pugc_core.results.comparison import Comparison

POINTS = 3000
"""Most points of a scatter plot."""
BLUE, GREEN, RED, ORANGE, GREY = "#4c6ef5", "#2f9e44", "#e03131", "#e8590c", "#adb5bd"


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """The picture as an <svg> element: no prologue, no date, the same bytes for the same data."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "pugc", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curves(curve: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Loss, reward margin and accuracy over the steps of a training."""
    figure, axes = _row(3)
    for ax, name, colour in zip(axes, ("loss", "margin", "accuracy"), (BLUE, GREEN, ORANGE), strict=True):
        rows = [row for row in curve if name in row]  # a loss without pairs has no accuracy
        steps, values = [row["step"] for row in rows], [row[name] for row in rows]
        ax.plot(steps, values, color=colour, marker="." if len(steps) < 30 else "")
        _label(ax, f"{title}: {name}, training pairs", "step")
    return figure


def dataset(pairs: pl.DataFrame, rewards: Measures) -> Figure:
    """Rewards, margins of the pairs, and lengths of chosen against rejected. `pairs` is a data set. The rewards are of
    all responses, or of the pairs' where `rewards` has no bands."""
    figure, axes = _row(3)
    kept = pairs.filter("keep")
    _rewards(axes[0], rewards, pl.concat([kept["chosen_reward"], kept["rejected_reward"]]))
    _margins(axes[1], kept)
    _lengths(axes[2], kept)
    return figure


def rewards(measures: Measures, values: pl.Series) -> Figure:
    """Distribution of the rewards, and how many votes a response has. `values` are the rewards."""
    figure, axes = _row(2)
    _rewards(axes[0], measures, values)
    votes = {int(name[6:]): n for name, n in measures.items() if name.startswith("votes_")}
    axes[1].bar([str(n) for n in sorted(votes)], [votes[n] for n in sorted(votes)], color=BLUE)
    _label(axes[1], "valid votes per response", "votes")
    return figure


def agreement(spreads: pl.Series) -> Figure:
    """Standard deviation of the votes on one response: 0 where all eight agree."""
    figure, axes = _row(1)
    axes[0].hist(spreads.drop_nulls().to_list(), bins=20, range=(0, 2), color=BLUE)
    _label(axes[0], "disagreement of the votes", "standard deviation of a response's votes")
    return figure


def pairs(kept: pl.DataFrame) -> Figure:
    """Margins, and lengths of chosen against rejected, of the kept rows of a data set."""
    figure, axes = _row(2)
    _margins(axes[0], kept)
    _lengths(axes[1], kept)
    return figure


def funnel(counted: Mapping[str, Counts]) -> Figure:
    """Rows kept and dropped, stage by stage."""
    figure, axes = _row(1, height=3.4)
    names = list(counted)[::-1]
    kept = [counted[name].kept for name in names]
    dropped = [counted[name].rows_in - counted[name].kept for name in names]
    axes[0].barh(names, kept, color=GREEN, label="kept")
    axes[0].barh(names, dropped, left=kept, color=GREY, label="dropped")
    axes[0].legend(fontsize=8)
    _label(axes[0], "rows kept and dropped", "rows")
    return figure


def comparison(found: Comparison) -> Figure:
    """Recipe by recipe: mean margin, mean lengths of chosen and rejected, and the share of pairs that are flipped
    against the first recipe's. Whiskers are 95% intervals."""
    figure, axes = _row(3, height=1.4 + 0.4 * len(found.recipes))
    _whiskers(axes[0], found, {"margin": ("", GREEN)})
    _label(axes[0], "margins", "chosen - rejected, mean")
    axes[0].set_yticks(range(len(found.names)), found.names)
    _whiskers(axes[1], found, {"chosen_tokens": ("chosen", GREEN), "rejected_tokens": ("rejected", RED)})
    _label(axes[1], "lengths", "tokens, mean")
    axes[1].legend(fontsize=7, loc="upper center", ncols=2)
    _whiskers(axes[2], found, {"flipped": ("", ORANGE)})
    _label(axes[2], "flipped against the first", "share of pairs")
    axes[2].set_xlim(0, 1)
    return figure


def _whiskers(ax: Axes, found: Comparison, shown: Mapping[str, tuple[str, str]]) -> None:
    """Figures by name, with their label and colour; a line for every recipe, from the top."""
    for offset, (name, (label, colour)) in enumerate(shown.items()):
        estimates = [(row, each.figures[name].value) for row, each in enumerate(found.recipes) if name in each.figures]
        there = [(row + 0.2 * offset, value) for row, value in estimates if isinstance(value, Estimate)]
        ax.errorbar(
            [value.value for _, value in there],
            [y for y, _ in there],
            xerr=[[max(0.0, v.value - v.low) for _, v in there], [max(0.0, v.high - v.value) for _, v in there]],
            fmt="o",
            color=colour,
            label=label,
            markersize=4,
            capsize=3,
        )
    ax.set_yticks(range(len(found.names)), [""] * len(found.names))
    ax.set_ylim(len(found.names) - 0.4, -0.9)


def _rewards(ax: Axes, measures: Measures, values: pl.Series) -> None:
    if not banded(measures):
        ax.hist(values.drop_nulls().to_list(), bins=30, color=BLUE)
        _label(ax, "rewards", "score of the reward model")
        return
    untied = [measures.get(f"untied_{low:.1f}", 0) for low in BANDS]
    tied = [measures.get(f"tied_{low:.1f}", 0) for low in BANDS]
    ax.bar(BANDS, untied, width=0.45, align="edge", color=BLUE, label="some differ")
    ax.bar(BANDS, tied, width=0.45, align="edge", bottom=untied, color=GREY, label="all tied")
    ax.legend(fontsize=8)
    _label(ax, "rewards of the responses", "mean vote")


def _margins(ax: Axes, kept: pl.DataFrame) -> None:
    margins = kept["margin"].to_list()
    ax.hist(margins, bins=16, range=(0, max([4, *margins])), color=GREEN)
    _label(ax, "margins of the pairs", "chosen - rejected")


def _lengths(ax: Axes, kept: pl.DataFrame) -> None:
    frame = kept.select(
        *(pl.col(s).list.get(0).struct.field("content").str.len_chars().alias(s) for s in ("chosen", "rejected"))
    )
    if frame.height > POINTS:
        frame = frame.sample(POINTS, seed=0)
    ax.scatter(frame["rejected"].to_list(), frame["chosen"].to_list(), s=6, alpha=0.5, color=BLUE)
    most = max([1, *frame["chosen"].to_list(), *frame["rejected"].to_list()])
    ax.plot([0, most], [0, most], color=GREY, linewidth=1)
    _label(ax, "lengths in characters", "rejected")
    ax.set_ylabel("chosen", fontsize=8)


def _row(n: int, height: float = 2.6) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * n if n > 1 else 6, height), dpi=80, layout="constrained")
    axes = figure.subplots(1, n, squeeze=False)
    return figure, list(axes[0])


def _label(ax: Axes, title: str, x: str) -> None:
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x, fontsize=8)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25)
