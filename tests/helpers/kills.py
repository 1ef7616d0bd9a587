"""What a killed run leaves behind: the scripted engine's journal, the ledger, the files."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def entries(journal: Path) -> list[tuple[float, str]]:
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [(float(at), key) for at, key in (line.split() for line in lines if len(line.split()) == 2)]


def in_ledger(project: Path) -> set[str]:
    parts = (project / "data" / "ledger").glob("judge*/*.parquet")
    return {key.hex() for part in parts for key in pq.read_table(part, columns=["key"])["key"].to_pylist()}


def tables(project: Path) -> dict[str, bytes]:
    root = project / "data"
    files = [*root.glob("tables/**/*.parquet"), *root.glob("datasets/**/*")]
    return {str(f.relative_to(root)): f.read_bytes() for f in files if f.is_file()}
