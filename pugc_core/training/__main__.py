"""`python -m pugc_core.training SPEC.json`: one training in a process of its own, whose end frees the GPU.

SPEC.json holds {"dataset", "start", "objective", "out", "config"}. Each line on stdout is one JSON object:
{"progress": {...}} as it goes, then {"summary": {...}}, or {"error": {"problem", "fix", "kind"}} with exit code 1.
Whatever the libraries print goes to stderr. With --stay-with-parent the process ends when its stdin closes.
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


def main(arguments: list[str]) -> int:
    """Run the training that the spec file asks for; the exit code."""
    wire = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(kind: str, content: dict[str, Any]) -> None:
        wire.write(json.dumps({kind: content}) + "\n")
        wire.flush()

    # Leave through `finally` blocks, which clear away the unfinished policy.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if "--stay-with-parent" in arguments:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        spec = _spec([a for a in arguments if not a.startswith("--")])
        _settle()
        from pugc_core.training.config import TrainingConfig
        from pugc_core.training.trainer import train

        config = TrainingConfig.model_validate(spec.pop("config", {}))
        summary = train(**spec, config=config, report=lambda progress: tell("progress", progress))
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
    if len(paths) != 1:
        raise RecipeError("one spec file is wanted", fix="python -m pugc_core.training SPEC.json")
    try:
        spec = json.loads(Path(paths[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RecipeError(f"cannot read the spec {paths[0]}: {err}") from err
    wanted = {"dataset", "start", "objective", "out"}
    if not isinstance(spec, dict) or spec.keys() - {"config"} != wanted:
        raise RecipeError(f"the spec {paths[0]} must be an object with {', '.join(sorted(wanted))} and config")
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
    os.killpg(0, signal.SIGTERM)
    time.sleep(5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
