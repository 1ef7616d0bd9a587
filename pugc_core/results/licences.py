"""Under which licences a data set stands, told as it is: counted, and "other" in a card where there are several."""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

Licences = Mapping[str | None, int]
"""Pairs by the licence of their post as its source names it, the most first; None where it names none."""

KNOWN = frozenset(
    f"cc-{kind}-{version}"
    for kind in ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd")
    for version in ("3.0", "4.0")
    if (kind, version) != ("by-nd", "3.0")
) | {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "wtfpl", "mpl-2.0", "gfdl"),
    *("gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "odc-by", "pddl"),
}
"""Identifiers that the Hugging Face hub has for licences."""
_DEED = re.compile(r"https?://creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/(\d\.\d)")


def licences(dataset: pl.DataFrame) -> dict[str | None, int]:
    """Of the kept rows of a table `dataset`."""
    counted = dataset.filter("keep").group_by("license").len().sort("len", "license", descending=[True, False])
    return dict(counted.iter_rows())


def identifier(licence: str) -> str | None:
    """What the hub calls a licence: "CC BY-SA 4.0" is "cc-by-sa-4.0". None for one that it has no name for."""
    plain = licence.strip().lower()
    if deed := _DEED.match(plain):
        kind, version = deed.groups()
        plain = f"cc0-{version}" if kind == "zero" else f"cc-{kind}-{version}"
    plain = re.sub(r"[\s_]+", "-", re.sub(r"\s*\(.*\)$", "", plain))
    return plain if plain in KNOWN else None


def metadata(found: Licences) -> dict[str, str]:
    """What a card's head says of them. Only a licence that all pairs have stands there by its name."""
    named = {identifier(licence) if licence else None for licence in found}
    if len(named) == 1 and (one := named.pop()):
        return {"license": one}
    if len(found) == 1:
        (only,) = found
        name = re.sub(r"[^a-z0-9.]+", "-", only.lower()).strip("-")[:60] or "unnamed" if only else "unknown"
    else:
        name = "mixed" if found else "unknown"
    return {"license": "other", "license_name": name, "license_link": "README.md"}


def table(found: Licences) -> str:
    """A Markdown table of licences and pairs."""
    lines = [f"| {_cell(licence) if licence else 'not stated'} | {n} |" for licence, n in found.items()]
    return "\n".join(["| licence of the post | pairs |", "|---|---|", *lines])


def _cell(text: str) -> str:
    """A source's own words on one line of a table, and no markup."""
    plain = " ".join(text.split())[:100]
    return re.sub(r"([\\|`*_<>\[\]#~&])", r"\\\1", plain)
