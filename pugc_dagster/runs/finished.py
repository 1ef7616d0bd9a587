"""What the last run of a recipe finished, so that the same run again starts no Dagster, whose import takes seconds.

Staleness alone cannot say that nothing is left to do: exported files, checks, model cards, samples and the report come
after the tables and policies that it looks at, and a run may stop between them. So a run with nothing to do is one that
`staleness.survey` finds nothing for, and before which a run ended well with every file as it is now. In doubt, a run
goes through everything.

The note lies beside Dagster's history, since it also says that the history has what is there: without the one there is
not the other, and the next run records everything anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path

from pugc_core import storage
from pugc_core.config import digest
from pugc_core.errors import PugcError, StorageError
from pugc_core.plan import Chain
from pugc_core.results import call_log, exports
from pugc_core.results.policy_samples import SAMPLES
from pugc_core.stages import POLICY, REPORT
from pugc_core.stages.records import ALL
from pugc_core.tables.staleness import Survey, survey
from pugc_dagster import project


def covers(chain: Chain, shards: Collection[str] = (), to: str | None = None) -> bool:
    """Whether a run of these shards (all, when empty) up to the stage `to` (all, when None) would make nothing."""
    try:
        note = json.loads(_place(chain.name).read_bytes())
        finished, last, state = set(note["shards"]), str(note["to"]), str(note["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    names, to = set(shards or chain.workspace.shards()), to or REPORT
    if not names or not names <= finished or to not in _reached(chain, last) or state != _state(chain):
        return False
    return _settled(chain, names, to)


def note(chain: Chain, shards: Collection[str], to: str | None) -> None:
    """Note that a run has ended well; but not where shards failed or a policy has no samples, which runs try again."""
    forget(chain.name)
    to = to or REPORT
    if not _settled(chain, set(shards), to):
        return
    page = {"shards": sorted(shards), "to": to, "state": _state(chain)}
    with contextlib.suppress(StorageError):  # without a note the next run only takes longer
        storage.write(str(_place(chain.name)), json.dumps(page).encode())


def forget(recipe: str) -> None:
    """Let the next run of a recipe go through everything."""
    with contextlib.suppress(OSError):
        _place(recipe).unlink()


def record_idle(chain: Chain, shards: Collection[str] = (), to: str | None = None) -> None:
    """Note in the recipe's page of calls that its last run asked no model, as one that goes through everything does."""
    roles = {name: stage.role or "" for name, stage in chain.stages.items()}
    reached = _reached(chain, to or REPORT)
    names = sorted(shards or chain.workspace.shards())
    idle = {name: names if name in chain.sharded else [ALL] for name in roles if name in reached}
    call_log.record_idle(chain.workspace.calls(chain.name), roles, idle)


def _place(recipe: str) -> Path:
    return project.root() / ".dagster" / "finished" / f"{recipe}.json"


def _reached(chain: Chain, to: str) -> list[str]:
    """What a run up to a stage goes through; nothing for a name that is no stage's."""
    if to in (POLICY, REPORT):
        return [*chain.nodes, *([POLICY, REPORT] if to == REPORT else [POLICY])]
    return chain.up_to(to) if to in chain.nodes else []


def _settled(chain: Chain, shards: Collection[str], to: str) -> bool:
    """Whether staleness finds nothing to make for these shards, up to a stage, and every policy has its samples."""
    found = survey(chain, to)
    for stage in found.stages:
        if not _wanting(found, stage).keys().isdisjoint(shards if stage in chain.sharded else {ALL}):
            return False
    folders = [
        chain.folder(name) for name in _reached(chain, to) if name in chain.nodes and chain.nodes[name].objective
    ]
    return all(storage.exists(storage.join(folder, SAMPLES)) for folder in folders)


def _wanting(found: Survey, stage: str) -> Mapping[str, str]:
    """The shards that a run would make: out of date, missing, or failed, which are tried again."""
    return {**found.stages[stage], **found.failed.get(stage, {})}


def _state(chain: Chain) -> str:
    """Changes with the recipe, the program, and every file that a run reads or writes but for the ledger's."""
    folders = [
        chain.workspace.inbox,
        *(storage.join(chain.workspace.store.root, chain.tables.owner(name), name) for name in chain.stages),
        *(storage.join(chain.dataset, *view.split()) for view in exports.VIEWS),
        *(chain.folder(name) for name, node in chain.nodes.items() if node.objective),
    ]
    with contextlib.suppress(PugcError):  # the report says what is wrong with one
        folders += [storage.join(c.workspace.store.root, c.tables.owner("pairs"), "pairs") for c in chain.compared]
    reports, _, report = chain.report.rpartition("/")
    files = {folder: storage.signatures(folder) for folder in folders}
    shown = storage.signatures(reports).get(report)
    return digest([[each.recipe.model_dump_json() for each in chain.lineage], _program(), files, shown])


def _program() -> list[str]:
    """Every file of the program with its size and time: an update may change what no fingerprint of a table names."""
    found = []
    for package in ("pugc_core", "pugc_dagster"):
        root = Path(str(resources.files(package)))
        for path in sorted(root.rglob("*")):
            if "__pycache__" not in path.parts and path.is_file():
                state = path.stat()
                found.append(f"{path.relative_to(root.parent)} {state.st_size} {state.st_mtime_ns}")
    return found
