"""What the last run asked of the models and which shards it went over, by stage: a small JSON file per recipe."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pugc_core import storage
from pugc_core.errors import StorageError
from pugc_core.ledger.dispatch import Calls
from pugc_core.plan import Chain
from pugc_core.tables.pair_diff import PairDiff


@dataclass(frozen=True)
class Earlier:
    """What a run has done of a stage so far: a command may run a stage several times, over different shards."""

    shards: Sequence[str] = ()
    calls: Calls = field(default_factory=Calls)
    change: PairDiff = field(default_factory=PairDiff)


def record(
    path: str,
    run: str,
    stage: str,
    role: str,
    calls: Calls,
    *,
    shards: Sequence[str],
    reused: int,
    seconds: float,
    change: PairDiff | None = None,
) -> None:
    """Note a stage's calls and its shards under the run's id; `change` is that of the whole run so far. A new run id
    starts a new page."""
    page = last(path)
    if page.get("run") != run:
        page = {"run": run, "stages": {}, "seen": {}}
    counts = {**asdict(calls), "shards": len(shards), "reused": reused, "seconds": round(seconds, 2)}
    before = page["stages"].get(stage, {})
    page["stages"][stage] = {"role": role, **{name: before.get(name, 0) + n for name, n in counts.items()}}
    names = page["seen"].get(stage, {}).get("shards", [])
    page["seen"][stage] = {"shards": [*names, *shards], "change": asdict(change or PairDiff())}
    _write(path, page)


def record_idle(path: str, roles: Mapping[str, str], shards: Mapping[str, Sequence[str]]) -> None:
    """Begin a new page, of a run that found every table current: role and shards by stage."""
    page: dict[str, Any] = {"run": uuid.uuid4().hex[:12], "stages": {}, "seen": {}}
    for stage, names in shards.items():
        counts = {**asdict(Calls()), "shards": len(names), "reused": len(names), "seconds": 0.0}
        page["stages"][stage] = {"role": roles[stage], **counts}
        page["seen"][stage] = {"shards": list(names), "change": asdict(PairDiff())}
    _write(path, page)


def earlier(path: str, run: str, stage: str) -> Earlier:
    """What the run of this id has noted of a stage."""
    page = last(path)
    if page.get("run") != run or stage not in page["seen"]:
        return Earlier()
    counts, seen = page["stages"][stage], page["seen"][stage]
    calls = Calls(**{name: counts.get(name, 0) for name in Calls.__dataclass_fields__})
    change = PairDiff(**{**seen["change"], "examples": tuple(seen["change"]["examples"])})
    return Earlier(seen["shards"], calls, change)


def last(path: str) -> dict[str, Any]:
    """The page of the last run: {"run": id, "stages": {stage: {role, made, from_ledger, ...}}, "seen": ...}; {} before
    the first, and where the page is damaged."""
    try:
        page = dict(json.loads(storage.read(path)))
        if page.keys() == {"run", "stages"}:  # as it was before it had a checksum
            return {**page, "seen": {}}
        return page if page.pop("checksum") == _checksum(page) else {}
    except (FileNotFoundError, StorageError, ValueError, TypeError, KeyError):
        return {}


def of(chain: Chain) -> dict[str, Any]:
    """What the last run of a recipe asked, by stage in run order: of what the recipe shares, that run's part as the
    page of the recipe that owns it has it."""
    pages = {each.name: last(each.workspace.calls(each.name)) for each in chain.lineage}
    run = next((page["run"] for page in pages.values() if page), None)
    found = {}
    for name, node in chain.nodes.items():
        for page in (pages[chain.name], pages[node.owner]):
            if page.get("run") == run and name in page.get("stages", {}):
                found[name] = page["stages"][name]
                break
    return found


def _write(path: str, page: dict[str, Any]) -> None:
    storage.write(path, json.dumps({**page, "checksum": _checksum(page)}, indent=2).encode())


def _checksum(page: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()[:16]
