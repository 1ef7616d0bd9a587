"""The models that PUGC brings itself, by their ids.

What they are called and where they are is known without network and without their files, so that recipes load before
anything is fetched. Only `bring` fetches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pugc_core.models import tiny
from pugc_core.models.files import folder_hash
from pugc_core.models.smollm2 import base, merge
from pugc_core.models.smollm2.cache import Say

TINY = "pugc/tiny"
"""The model that ships in the package."""


class Provided(NamedTuple):
    """A model that PUGC brings itself."""

    content: Callable[[], str]
    """Sixteen hex digits that change with anything that it says. Raises ModelNotFound where a part is not there."""
    place: Callable[[], Path]
    """Its folder, as it is or will be."""
    missing: Callable[[], str | None]
    """Why it is not there; None where it is."""
    bring: Callable[[Say], object]
    """Makes sure that it is there."""
    source: str
    """What a model card says that it is based on: the hub's name, where it has one."""
    context: int | None = None
    """Tokens, where its folder need not be there to tell."""


MODELS: Mapping[str, Provided] = {
    TINY: Provided(
        content=lambda: folder_hash(tiny.weights()),
        place=tiny.weights,
        missing=lambda: None,
        bring=lambda say: None,
        source=TINY,
    ),
    base.ID: Provided(
        content=base.content,
        place=base.place,
        missing=base.missing,
        bring=base.folder,
        source=base.SOURCE,
        context=base.CONTEXT,
    ),
    merge.ID: Provided(
        content=merge.content,
        place=merge.place,
        missing=merge.missing,
        bring=merge.folder,
        source=base.SOURCE,
        context=base.CONTEXT,
    ),
}
