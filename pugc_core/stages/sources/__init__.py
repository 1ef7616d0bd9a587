"""Files of posts, row by row: JSON lines, CSV, Parquet and StackExchange's Posts.xml, on any fsspec path.

A broken row is handed on with its line number and what is wrong with it; a broken file is refused with SourceError.
Nothing is skipped but blank lines, and those count in the line numbers. What a row, a file's columns and a packed file
may grow to is bounded (`limits`), so that no file takes more memory or time than its size allows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pyarrow as pa

from pugc_core.errors import SourceError
from pugc_core.stages.sources import comma, files, jsonl, names, parquet, stackexchange
from pugc_core.stages.sources.files import opened
from pugc_core.stages.sources.markup import html_to_text
from pugc_core.stages.sources.names import SUFFIXES, check_shard, shard_name
from pugc_core.stages.sources.rows import RAW_CHARS, Raw

__all__ = ["RAW_CHARS", "SUFFIXES", "Raw", "check_shard", "html_to_text", "opened", "read", "shard_name"]

_READERS: dict[str, Callable[[str, io.BufferedReader], Iterator[Raw]]] = {
    "jsonl": jsonl.read,
    "ndjson": jsonl.read,
    "json": jsonl.read,
    "csv": comma.read,
    "parquet": parquet.read,
    "xml": stackexchange.read,
}


def read(path: str) -> Iterator[Raw]:
    """The rows of a file in their order. Raises SourceError, naming place and remedy, when the file cannot be read."""
    if "://" not in path:
        files.refuse_irregular(path)  # which says more than that its name has no suffix
    _, kind, pack = names.parse(path)
    rows = 0
    try:
        with opened(path) as data:
            if not data.peek(1):
                raise SourceError(f"{path} is empty", fix="put one post per row into it, or remove it")
            for row in _READERS[kind](path, data):
                rows += 1
                yield row
    except (pa.ArrowException, OSError) as err:
        problem = f"{path} is damaged or no {pack or kind} file (after {rows} rows): {files.words(err)}"
        raise SourceError(problem, fix="copy the file here again; if that does not help, make it anew") from err
    if not rows:
        raise SourceError(
            f"{path} has no rows", fix="put one post per row into it (XML: one <row ...> each), or remove it"
        )
