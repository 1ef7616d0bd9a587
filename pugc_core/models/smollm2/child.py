"""Work that needs torch, in a process of its own: its end gives the memory back, and the caller stays without torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

from pugc_core.errors import EngineError, MissingDependency
from pugc_core.models.smollm2 import cache


def need(work: str, *packages: str) -> None:
    """Raises MissingDependency where one of the packages that `work` takes is not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise MissingDependency(
            f"{work} takes {' and '.join(missing)}, not installed here", fix="pip install -e '.[transformers]'"
        )


def run(work: str, size: int, module: str, words: Sequence[object]) -> None:
    """`python -m module words...`, off the network. Raises EngineError with its last lines, or StorageError where its
    disk was full, of which `work` takes `size` bytes."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    if done.returncode == 0:
        return
    if "No space left on device" in done.stderr:
        raise cache.no_room(size)
    tail = "\n    ".join(done.stderr.strip().splitlines()[-8:])
    fix = "pip install -e '.[transformers]' brings the versions that it was tried with"
    if done.returncode == -9:
        fix = "it was killed, most likely for memory: it takes 1.5 GB for some seconds"
    raise EngineError(f"{work} ended with code {done.returncode}:\n    {tail}", fix=fix)
