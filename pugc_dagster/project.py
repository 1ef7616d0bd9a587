"""The user's project: the folder with dagster.yaml, its data root, and its recipes."""

from __future__ import annotations

import os
from pathlib import Path

from pugc_core.errors import RecipeError
from pugc_core.recipe import BUNDLED


def root() -> Path:
    """DAGSTER_HOME, or the nearest folder above with a dagster.yaml. Raises RecipeError when there is none."""
    if home := os.environ.get("DAGSTER_HOME"):
        return Path(home).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dagster.yaml").is_file():
            return folder
    raise RecipeError(
        f"no dagster.yaml in {here} or above it", fix="run from the project's folder, or export DAGSTER_HOME=its path"
    )


def data_root() -> str:
    """Where data lies: PUGC_DATA (a folder, counted from the project's, or an fsspec URL), or `data` in the project."""
    place = os.environ.get("PUGC_DATA") or "data"
    return place if "://" in place else str(root() / place)


def recipe_folders() -> list[Path]:
    """Where the user's own recipes lie: PUGC_RECIPES, or `recipes` in the project; those of them that exist."""
    folders = os.environ.get("PUGC_RECIPES", "").split(os.pathsep)
    candidates = [root() / folder for folder in folders if folder] or [root() / "recipes"]
    return [folder for folder in candidates if folder.is_dir()]


def in_the_web_ui(recipe: Path) -> bool:
    """Whether the definitions that the web UI loads include this recipe file."""
    return recipe.resolve().parent in {folder.resolve() for folder in (*recipe_folders(), BUNDLED)}
