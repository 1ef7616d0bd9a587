"""What a killed run leaves behind: the scripted engine's journal, the ledger, the files."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def entries(journal: Path) -> list[tuple[float, str]]:
    """When each answer was given, and its key. A kill can leave half a line, which is none."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    found = (line.split() for line in lines)
    return [(float(words[0]), words[1]) for words in found if len(words) == 2 and len(words[1]) == 64]


def in_ledger(project: Path) -> set[str]:
    parts = (project / "data" / "ledger").glob("judge*/*.parquet")
    return {key.hex() for part in parts for key in pq.read_table(part, columns=["key"])["key"].to_pylist()}


def tables(project: Path) -> dict[str, bytes]:
    root = project / "data"
    files = [*root.glob("tables/**/*.parquet"), *root.glob("datasets/**/*")]
    return {str(f.relative_to(root)): f.read_bytes() for f in files if f.is_file()}
