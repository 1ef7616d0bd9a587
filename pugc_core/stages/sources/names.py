"""Which files are read, and the shard that a file becomes."""

from __future__ import annotations

import re
import unicodedata

from pugc_core.errors import SourceError

_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".xml")
SUFFIXES = (*(kind + pack for kind in _KINDS for pack in ("", ".gz", ".zst")), ".parquet")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def parse(path: str) -> tuple[str, str, str]:
    """Base name, format and packing of a path: ('posts', 'jsonl', 'gz')."""
    name = path.rsplit("/", 1)[-1]
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            kind, _, pack = suffix[1:].partition(".")
            return name[: -len(suffix)], kind, pack
    known = ", ".join(SUFFIXES)
    raise SourceError(f"{path}: no reader for this kind of file", fix=f"convert or rename it to one of {known}")


def check_shard(name: str) -> str:
    """The name itself. Raises SourceError with a safe name unless it can be a file name and a partition key."""
    if _SHARD.fullmatch(name):
        return name
    plain = unicodedata.normalize("NFKD", re.sub(r"[^\w]+", "-", name[:1000])).encode("ascii", "ignore").decode()
    safe = re.sub(r"-+", "-", plain).strip("-_")[:100] or "shard-1"
    bad = sorted(set(re.findall(r"[^A-Za-z0-9_-]", name)))
    why = f"it has {' '.join(map(repr, bad))}" if bad else "it is empty, too long or starts with '-' or '_'"
    raise SourceError(
        f"{name[:120]!r} cannot be the name of a shard: {why}",
        fix=f"name it {safe!r}: letters, digits, '-' and '_', a letter or digit first, at most 100",
    )


def shard_name(filename: str) -> str:
    """The shard a file becomes: its base name without the suffix."""
    return check_shard(parse(filename)[0])
