"""Projects of older versions, in which every recipe had all of its tables in its own folder: what a recipe only shares
moves to the recipe that owns it, where it is found and stays current without being made again.
"""

from __future__ import annotations

import contextlib

from pugc_core import storage
from pugc_core.errors import StorageError
from pugc_core.plan import Chain
from pugc_core.tables.store import Footer
from pugc_core.training import lineage


def adopt(chain: Chain) -> list[str]:
    """Move what a recipe made and does not own to where its owner has it. Returns the names of such nodes.

    Of two tables of one shard, the one that its stage would make now stays, else the owner's. Another process may do
    the same at the same time.
    """
    shared = [name for name in chain.nodes if not chain.owns(name)]
    return [name for name in shared if (_tables if name in chain.stages else _policy)(chain, name)]


def _tables(chain: Chain, name: str) -> bool:
    store, owner = chain.workspace.store, chain.nodes[name].owner
    shards = store.shards(chain.name, name)
    for shard in shards:
        path, target = store.path(chain.name, name, shard), store.path(owner, name, shard)
        if _current(chain, name, chain.name, shard) > _current(chain, name, owner, shard):
            with contextlib.suppress(FileNotFoundError):
                storage.move(path, target)
        else:
            storage.delete(path)
    if name == "dataset" and shards:
        _folder(chain.workspace.dataset(chain.name), chain.workspace.dataset(owner))
    return bool(shards)


def _current(chain: Chain, name: str, recipe: str, shard: str) -> int:
    """2 for a table that is what its stage would make of some inputs, 1 for another one, 0 for none."""
    footer: Footer | None = None
    with contextlib.suppress(StorageError):
        footer = chain.workspace.store.footer(recipe, name, shard)
    if footer is None:
        return 0
    return 2 if dict(footer.fingerprint) == dict(chain.stages[name].fingerprint) and not footer.failed else 1


def _policy(chain: Chain, name: str) -> bool:
    folder = chain.workspace.policy(chain.name, name.rpartition("/")[2])
    if lineage.recorded(folder) is None:
        return False
    return _folder(folder, chain.folder(name))


def _folder(folder: str, target: str) -> bool:
    """Move a folder to a place where there is none."""
    if not storage.exists(folder) or storage.exists(target):
        return False
    with contextlib.suppress(FileNotFoundError):
        storage.move(folder, target)
    return True
