"""What is in a model's folder, as a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from pugc_core.errors import ModelNotFound


def folder_hash(folder: Path, needed: str = "config.json") -> str:
    """Sixteen hex digits over the files of a model's folder. Raises ModelNotFound where the file `needed` is not."""
    kinds = {".json", ".safetensors", ".model", ".jinja", ".txt", ".bin"}
    # Records of how it was made, and of what it said, are no part of it.
    records = {"training.json", "lineage.json", "samples.json"}
    files = sorted(p for p in folder.glob("*") if p.suffix in kinds and p.name not in records)
    if not any(p.name == needed for p in files):
        kind = "model" if needed == "config.json" else "adapter"
        raise ModelNotFound(
            f"no {kind} in {folder}: it has no {needed}", fix="name a Hugging Face model folder or a hub id"
        )
    return files_hash(files)


def files_hash(files: Iterable[Path]) -> str:
    """Sixteen hex digits over the names and the bytes of files; one that did not change is not read again."""
    return _hash_files(_state(list(files)))


def _state(files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    return tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)


@lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    # Whole contents: a policy trained again differs from its predecessor in nothing but the numbers.
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{Path(path).name}\x1f{size}\x1f".encode())
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
