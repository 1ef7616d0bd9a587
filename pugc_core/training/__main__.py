"""`python -m pugc_core.training SPEC.json`: one training in a process of its own, whose end frees the GPU.

SPEC.json holds {"dataset", "start", "objective", "out"} and may hold {"config", "system_role"}; without it, the
environment variable PUGC_TRAINING does. Each line on stdout is one JSON object: {"progress": {...}} as it goes,
{"doing": {"what"}} in words beside the steps, then {"summary": {...}}, or {"error": {"problem", "fix", "kind"}} with
exit code 1. Of several processes that a launcher started the first one speaks. Whatever the libraries print goes to
stderr.
With --stay-with-parent the process ends when its stdin closes or its parent is gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from pugc_core.errors import PugcError, RecipeError
from pugc_core.training.launch import SPEC
from pugc_core.training.summary import Report


def main(arguments: list[str], also: Report = lambda _: None) -> int:
    """Run the training that the spec file asks for; the exit code. `also` is told its progress too."""
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    first = os.environ.get("RANK", "0") == "0"

    def tell(kind: str, content: dict[str, Any]) -> None:
        if first or kind == "error":
            wire.write(json.dumps({kind: content}) + "\n")
            wire.flush()

    # Leave through `finally` blocks, which clear away the unfinished policy.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if "--stay-with-parent" in arguments:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        spec = _spec([a for a in arguments if not a.startswith("--")])
        _settle()
        from pugc_core.training.config import TrainingConfig
        from pugc_core.training.trainer import train

        config = TrainingConfig.model_validate(spec.pop("config", {}))

        def report(progress: dict[str, Any]) -> None:
            tell("progress", progress)
            also(progress)

        summary = train(**spec, config=config, report=report, say=lambda what: tell("doing", {"what": what}))
    except PugcError as err:
        tell("error", {"problem": err.problem, "fix": err.fix, "kind": type(err).__name__})
        return 1
    except Exception as err:
        traceback.print_exc()
        tell("error", {"problem": f"{type(err).__name__}: {err}", "fix": None, "kind": type(err).__name__})
        return 1
    tell("summary", dataclasses.asdict(summary))
    return 0


def _spec(paths: list[str]) -> dict[str, Any]:
    if len(paths) != 1 and SPEC not in os.environ:
        raise RecipeError("one spec file is wanted", fix="python -m pugc_core.training SPEC.json")
    place = paths[0] if paths else SPEC
    try:
        spec = json.loads(Path(place).read_text(encoding="utf-8") if paths else os.environ[SPEC])
    except (OSError, ValueError) as err:
        raise RecipeError(f"cannot read the spec {place}: {err}") from err
    wanted, besides = {"dataset", "start", "objective", "out"}, ("config", "system_role")
    if not isinstance(spec, dict) or spec.keys() - {*besides} != wanted:
        names = f"{', '.join(sorted(wanted))}; beside these it may have {' and '.join(besides)}"
        raise RecipeError(f"the spec {place} must be an object with {names}")
    return spec


def _settle() -> None:
    """Settings that hold from the first import of torch on.

    One process trains on one GPU: with more in sight transformers would split, and enlarge, the batch. And torch's
    threads sleep while they wait: spinning, as they do by default, makes a training on a busy machine far slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "WORLD_SIZE" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def _end_with_stdin() -> None:
    """The parent holds the other end of stdin and never writes: end of file means that it is gone."""
    while os.read(0, 1024):
        pass
    _end()


def _end_with_parent(parent: int) -> None:
    """The launcher may be killed where it cannot end its processes first."""
    while os.getppid() == parent:
        time.sleep(1)
    _end()


def _end() -> None:
    os.killpg(0, signal.SIGTERM)
    time.sleep(5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
