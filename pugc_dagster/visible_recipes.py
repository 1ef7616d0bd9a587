"""Which recipes are shown, in the web UI and by `pugc recipes`. No Dagster here: the terminal need not wait for it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from pugc_core import default_recipe, storage
from pugc_core.errors import PugcError, RecipeError
from pugc_core.plan import Chain
from pugc_core.recipe import bundled, load
from pugc_core.tables.upgrade import adopt
from pugc_core.tables.workspace import Workspace
from pugc_dagster.project import data_root, recipe_folders

log = logging.getLogger("pugc")


def load_all(
    check: Callable[[Chain], object] = lambda chain: None, *, every: bool = False
) -> tuple[list[Chain], dict[str, PugcError]]:
    """The chains of the user's own recipes, of the default, and of the bundled ones that have tables (with `every`, of
    all bundled ones), and by name what is wrong with those that cannot be loaded or do not pass the `check`."""
    workspace = Workspace(data_root())
    folders = recipe_folders()
    own = sorted(path for folder in folders for path in folder.glob("*.toml"))
    loaded: dict[str, Chain] = {}
    broken: dict[str, PugcError] = {}
    # A user's recipe may replace a bundled one of the same name.
    others = [name for name in bundled() if name not in {path.stem for path in own} and (every or _used(name))]
    for name in (*map(str, own), *others):
        try:
            chain = Chain(load(name, folders), workspace)
            check(chain)
            _adopt(chain)
            if chain.name in loaded:
                raise RecipeError(f"another recipe is called {chain.name!r} too", fix='give it another `name = "..."`')
        except PugcError as err:
            log.error("recipe %s is left out: %s", name, err)
            broken[Path(name).stem] = err
            continue
        loaded[chain.name] = chain
    for chain in list(loaded.values()):
        with contextlib.suppress(PugcError):  # the comparison says what is wrong when it is materialized
            for other in chain.compared:
                loaded.setdefault(other.name, other)  # a bundled one that is not used yet
    return list(loaded.values()), broken


def _adopt(chain: Chain) -> None:
    try:
        adopt(chain)
    except Exception as err:  # storage that is away for a while
        log.warning("recipe %s: tables of an older version stay where they are: %s", chain.name, err)


def _used(bundled: str) -> bool:
    """Whether a bundled recipe is shown: four chains in the graph, three of them never run, only confuse."""
    try:
        return bundled == default_recipe.look().recipe or storage.exists(
            storage.join(Workspace(data_root()).store.root, bundled)
        )
    except Exception as err:  # storage that is away for a while
        log.warning("whether recipe %s has tables is not known: %s", bundled, err)
        return False
