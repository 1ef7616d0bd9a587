"""A pair and all behind it: what was asked of which model, in which words, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pugc_core.engines.base import Request, Sampling
from pugc_core.recipe import Recipe
from pugc_core.references import NAME, References, wanted
from pugc_core.stages.base import Stage
from pugc_core.workspace import Workspace

_SLOTS: Mapping[str, Sequence[str]] = {
    "quality": ("ugc",),
    "instructions": ("ugc", "example"),
    "relevance": ("ugc", "instruction"),
    "responses": ("instruction",),
    "rewards": ("instruction", "response", "ugc"),
}


def asked(
    recipe: Recipe, stages: Mapping[str, Stage], workspace: Workspace, behind: Mapping[str, Any]
) -> dict[str, Any]:
    """By stage: model, sampling, the prompt as it was sent, and a seed per draw; for `rewards` one of these per
    response, and the id of the post that the judge was shown, where that is another. `behind` is what `summary.lineage`
    gives. `current` is False where the recipe has changed since the table was made (or, where another post was shown,
    which one that is): then this is what would be asked now. No prompt where there is nothing to ask.
    """
    post, instruction = behind["post"]["text"], behind["instruction"]["instruction"]
    example = recipe.instructions.examples[int(behind["post"]["ugc_id"], 16) % len(recipe.instructions.examples)]
    known: dict[str, str | None] = {"ugc": post, "instruction": instruction, "example": example}
    references = References(workspace.store, recipe.name, workspace.shards())
    found: dict[str, Any] = {}
    for name in _SLOTS:
        stage: Any = stages[name]
        footer = workspace.store.footer(recipe.name, name, behind["shard"])
        made = {
            "model": stage.model,
            "sampling": stage.config.sampling.model_dump(exclude_defaults=True, mode="json"),
            "current": footer is not None and dict(footer.fingerprint) == dict(stage.fingerprint),
        }
        draws = {"instructions": [behind["instruction"]["draw"]], "responses": [r["draw"] for r in behind["responses"]]}
        if name != "rewards":
            found[name] = made | _request(stage, known, stage.config.sampling, draws.get(name, [0]))
            continue
        if wanted(stage):
            ugc_id = behind["post"]["ugc_id"]
            known["ugc"] = references.text(ugc_id)
            made[NAME] = references.other(ugc_id)
            made["current"] &= footer is not None and footer.inputs.get(NAME) == references.state(behind["shard"])
        found[name] = made | {
            "responses": {
                r["response_id"]: _request(
                    stage,
                    {**known, "response": r["text"]},
                    stage.config.sampling,
                    [v["draw"] for v in r["votes"] or []],
                )
                for r in behind["responses"]
                if r["text"]
            }
        }
    return found


def _request(stage: Any, known: Mapping[str, str | None], sampling: Sampling, draws: Sequence[int]) -> dict[str, Any]:
    slots = {slot: known[slot] for slot in _SLOTS[stage.name]}
    if None in slots.values():  # no other post
        return {"prompt": [], "seeds": {}}
    request = Request(stage.model, stage.prompt.render(slots), sampling, tuple(draws) or (0,))
    return {
        "prompt": [{"role": role, "content": content} for role, content in request.messages],
        "seeds": {draw: request.seed(draw) for draw in draws},
    }
