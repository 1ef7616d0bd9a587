"""The model card of a policy: where it comes from and what its training came to; and its way to a hub, when asked."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pugc_core.errors import MissingDependency, TrainingError
from pugc_core.models.spec import ModelSpec
from pugc_core.recipe import Recipe
from pugc_core.results import licences
from pugc_core.results.dataset_card import front_matter
from pugc_core.results.licences import Licences
from pugc_core.training.summary import Summary


def write(
    folder: Path,
    recipe: Recipe,
    summary: Summary,
    lineage: Mapping[str, Any],
    prompts: Mapping[str, str],
    found: Licences,
) -> None:
    """README.md in the policy's folder. `prompts` are the fingerprints of the prompts behind the data set, by stage;
    `found` counts the licences of its posts."""
    loss = recipe.training.loss(summary.objective)
    knobs = lineage["knobs"]
    asked = "\n".join(f"| prompt of `{stage}` | `{fingerprint}` |" for stage, fingerprint in prompts.items())
    shared = ", ".join(f"{name} {value}" for name, value in knobs.items() if name != summary.objective)
    own = ", ".join(f"{name} {value}" for name, value in knobs[summary.objective].items())
    page = f"""{front_matter(head(recipe, summary.objective, found))}
# {recipe.name}, trained by {loss.title}

A policy trained on preference pairs made from user-generated content, without labels (arXiv 2506.04463): the judge read
the post that a question was made from before it scored the answers to it.

| from | |
|---|---|
| start model | `{lineage["start"]}` |
| data set | `{lineage["dataset"]}` |
| recipe | `{recipe.name}` |
{asked}
| PUGC | {version("pugc")} |
| Python | {platform.python_version()} |

## Licences

The weights are those of the start model, changed, so its licence stays. The pairs were made from posts under these, and
by the models that the data set's card names:

{licences.table(found)}

## Training

{summary.n_train} pairs, {summary.n_test} held out, {summary.dropped_too_long} dropped as too long;
{summary.steps} steps on {summary.devices} x {summary.device} in {summary.precision}, {summary.seconds:.0f} s.
{loss.title}: {own}. Shared: {shared}.

{figures(summary)}

The margin is the difference in reward between chosen and rejected answers in units of the loss, the gain how much
larger it is than under the start model, the accuracy the share of pairs where it is positive. What a policy was trained
on it may know by heart: only the held-out pairs, each counted once, say something of others. The intervals are 95%.
Nothing here says that people would prefer the answers.

```
from transformers import pipeline
pipeline("text-generation", "{folder.name}")([{{"role": "user", "content": "How do I wash wool?"}}])
```
"""
    (folder / "README.md").write_text(page, encoding="utf-8")


def head(recipe: Recipe, objective: str, found: Licences) -> dict[str, object]:
    """What stands at the head of the card for the hub to read."""
    start = recipe.model("policy")
    return {
        **_licence(start, found),
        "base_model": _name(start),
        "datasets": [f"pugc-{recipe.name}"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["pugc", "trl", objective],
    }


def _name(start: ModelSpec) -> str:
    if start.provided:
        return start.provided.source
    return Path(start.id).name if start.local else start.id  # a folder's path is nobody's business


def _licence(start: ModelSpec, found: Licences) -> dict[str, str]:
    """A licence by its name only where the start model's own card names the one that all posts have."""
    of_data = licences.metadata(found)
    card = Path(start.location) / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if start.local and card.is_file() else ""
    stated = text.split("\n---", 1)[0] if text.startswith("---") else ""
    named = re.search(r"^license:[ \"']*([\w.-]+)", stated, re.MULTILINE)
    if named and named.group(1) != "other" and of_data["license"] == named.group(1):
        return of_data
    return {"license": "other", "license_name": "start-model-and-data", "license_link": "README.md"}


def figures(summary: Summary) -> str:
    """A table in Markdown: what the training came to, on held-out pairs and on those that were trained on."""
    held_out = f"held out, {summary.n_test} pairs" if summary.held_out else "held out: no pairs"
    lines = [f"| | {held_out} | training pairs, last pass | training pairs, first steps |", "|---|---|---|---|"]
    for name in ("accuracy", "margin", "gain", "loss"):
        measured = summary.held_out.get(name, "-")
        trained = (f"{row[name]:.4g}" if name in row else "-" for row in (summary.final, summary.curve[0]))
        lines.append(f"| {name} | {measured} | {' | '.join(trained)} |")
    return "\n".join(lines)


def push(folder: Path, name: str) -> str:
    """Upload the policy as a private repository of the hub, with the token of `hf auth login`; its address."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as err:
        raise MissingDependency(f"pushing needs huggingface_hub: {err}", fix='pip install -e ".[train]"') from err
    try:
        address = HfApi().create_repo(name, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=folder)
    except (HfHubHTTPError, OSError, ValueError) as err:
        raise TrainingError(
            f"cannot push to {name}: {err}", fix="log in with `hf auth login`, or take training.push_to out"
        ) from err
    return str(address)
