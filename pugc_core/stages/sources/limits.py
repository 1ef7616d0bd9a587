"""What a file of posts may grow to. Everything beyond costs its sender less than it costs us."""

from __future__ import annotations

from typing import Any

LONGEST_ROW = 16 << 20
"""Bytes (CSV: characters) of one row. Longer rows are broken, or their file is where the next row cannot be found."""
MOST_COLUMNS = 2000
"""Columns of a file, or of one row where rows name their own."""
DEEPEST = 100
"""Levels of lists and objects within one another. Writers of JSON give up at 254, Python itself near 1,000."""
ALWAYS_UNPACKED = 64 << 20
"""Bytes that any packed file may unpack to, however small it is."""
MOST_TIMES = 100
"""How many times its own size a file may unpack to beyond that. Posts are packed to a third or a tenth."""


def unpacked(packed: int) -> int:
    """How many bytes may come out of a file of so many."""
    return max(ALWAYS_UNPACKED, MOST_TIMES * packed)


def too_long(unit: str = "bytes") -> str:
    return f"longer than {LONGEST_ROW:,} {unit}"


def too_wide(columns: int) -> str | None:
    return f"{columns:,} columns, more than {MOST_COLUMNS:,}" if columns > MOST_COLUMNS else None


def too_deep(value: Any) -> str | None:
    """What is wrong with a value whose lists and objects go deeper than DEEPEST. Takes one level at a time."""
    level = [value]
    for _ in range(DEEPEST):
        inner = [i.values() if isinstance(i, dict) else i for i in level if isinstance(i, dict | list)]
        level = [item for items in inner for item in items]
        if not level:
            return None
    return f"nested deeper than {DEEPEST} levels"
