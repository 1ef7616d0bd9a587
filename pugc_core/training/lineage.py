"""What a policy was made from; when it is the same, the policy is, and nothing is trained."""

from __future__ import annotations

import json
from typing import Any

from pugc_core import storage
from pugc_core.recipe import Recipe
from pugc_core.training.config import VERSION

FILE = "lineage.json"


def wanted(recipe: Recipe, objective: str, dataset: str | None, start: str | None = None) -> dict[str, Any]:
    """What a policy trained now would be made from; `dataset` is the content hash of the data set, `start` the identity
    of the model that it starts from, where that is not the recipe's."""
    policy = recipe.model("policy")
    return {
        "dataset": dataset,
        "start": start or policy.identity,
        "knobs": recipe.training.knobs(objective),
        "version": VERSION,
        # Not where it is at its default: policies from before it counted are what they would be.
        **({"system_role": False} if policy.system_role is False else {}),
    }


def recorded(folder: str) -> dict[str, Any] | None:
    """What the policy in a folder was made from; None when there is none, or no whole one."""
    try:
        found: dict[str, Any] = json.loads(storage.read(storage.join(folder, FILE)))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found


def record(folder: str, what: dict[str, Any], pairs: dict[str, str]) -> None:
    """Note what the policy in a folder was made from; `pairs` are the content hashes of its shards of pairs."""
    page = json.dumps({**what, "pairs": pairs}, indent=2) + "\n"
    storage.write(storage.join(folder, FILE), page.encode())


def same(found: dict[str, Any] | None, now: dict[str, Any]) -> bool:
    return found is not None and {name: found.get(name) for name in now} == now


def unseen(found: dict[str, Any] | None, pairs: dict[str, tuple[str, int]]) -> int:
    """Pairs in the shards that the policy was not trained on; `pairs` has content hash and kept pairs by shard."""
    seen = (found or {}).get("pairs", {})
    return sum(kept for shard, (content, kept) in pairs.items() if seen.get(f"pairs/{shard}") != content)
