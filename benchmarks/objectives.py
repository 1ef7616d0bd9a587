"""Does every objective learn? Each trains on one data set for so many steps: loss and margin of first and last steps.

    .venv/bin/python benchmarks/objectives.py data/datasets/tiny --steps 30 [--recipe tiny]

The data set is one that the chain made; the start model and the knobs are the recipe's.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean

from pugc_core import recipe
from pugc_core.training.config import TrainingConfig
from pugc_core.training.run import run
from pugc_core.training.summary import Summary

MEAN = 5  # first and last steps that are averaged


def ends(summary: Summary, name: str) -> str:
    values = [row[name] for row in summary.curve if name in row]
    return f"{fmean(values[:MEAN]):.4f} -> {fmean(values[-MEAN:]):.4f}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--objectives", nargs="+", default=TrainingConfig.losses())
    options = parser.parse_args()
    made = recipe.load(options.recipe)
    config = made.training.model_copy(update={"max_steps": options.steps})
    print(f"means of the first and the last {MEAN} of {options.steps} steps of {config.batch_size} pairs\n")
    print("| objective | loss | margin | accuracy | tokens/s | s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for objective in options.objectives:
            summary = run(
                dataset=options.dataset,
                start=made.model("policy").location,
                objective=objective,
                config=config,
                out=str(Path(folder) / objective),
                report=lambda _: None,
            )
            figures = " | ".join(ends(summary, name) for name in ("loss", "margin", "accuracy"))
            print(f"| {objective} | {figures} | {summary.tokens_per_second:,.0f} | {summary.seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
