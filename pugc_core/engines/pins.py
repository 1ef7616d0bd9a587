"""Which commit of a hub model the answers in a ledger come from.

A branch or a tag of the hub may move, and the answers of two models must not stand under one name. The commit that is
loaded first is written into the model's folder in the ledger and loaded from then on, on every machine that shares the
ledger. The identity stays what the recipe says, since it has to be known before anything is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from pugc_core import storage
from pugc_core.engines import select
from pugc_core.errors import StorageError
from pugc_core.ledger.store import folder_of
from pugc_core.models.spec import ModelSpec

FILE = "commit.txt"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(spec: ModelSpec, ledger: str) -> ModelSpec:
    """The model with the commit that its answers in the ledger at `ledger` come from, as its revision.

    As it is where there is nothing to pin: folders, servers, scripts, a commit in the recipe; and where neither the hub
    nor its cache on this machine has the model, which loading it tells better.
    """
    if spec.local or _COMMIT.fullmatch(spec.revision or ""):
        return spec
    if select(spec).name not in ("vllm", "transformers"):
        return spec
    path = storage.join(ledger, folder_of(spec.identity), FILE)
    commit = recorded(path)
    if commit is None:
        commit = resolved(spec)
        if commit is None:
            return spec
        storage.write(path, f"{commit}\n".encode())
    return spec.model_copy(update={"revision": commit})


def recorded(path: str) -> str | None:
    """The commit in a pin file; None where there is none. Raises StorageError where it holds something else."""
    try:
        words = storage.read(path).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    if not _COMMIT.fullmatch(words):
        raise StorageError(
            f"{path} does not hold a commit but {words[:60]!r}",
            fix="write the commit there that the model's answers come from, or set the model's revision to it",
        )
    return words


def resolved(spec: ModelSpec) -> str | None:
    """The commit that the revision names now: on the hub, or in its cache on this machine when it cannot be reached."""
    try:
        from huggingface_hub import hf_hub_download

        config = hf_hub_download(spec.id, "config.json", revision=spec.revision or "main")
    except (ImportError, OSError, ValueError):
        return None
    commit = Path(config).parent.name  # .../snapshots/<commit>/config.json
    return commit if _COMMIT.fullmatch(commit) else None
