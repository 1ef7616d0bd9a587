"""Which recipe is taken where none is named: one with a real model, or the bundled tiny one where that cannot be had.

Looking asks no network, and `pugc ui` hands its choice on in PUGC_RECIPE, so that the web UI, its daemon and the runs
that they start agree. Commands that run a chain try to bring the model first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from pugc_core.errors import ModelNotFound, PugcError
from pugc_core.models.smollm2 import base, merge
from pugc_core.models.smollm2.cache import Say

PREFERRED = "tiny"
"""`laptop` takes its place once the roles adapter is in the package."""
FALLBACK = "tiny"
"""Needs nothing but the package."""
VARIABLE = "PUGC_RECIPE"
"""The environment variable that names another default."""


class Choice(NamedTuple):
    """A recipe, and in a sentence why it stands in for another; empty where it does not."""

    recipe: str
    why: str = ""


def look() -> Choice:
    """The default as things are on this machine."""

    def there() -> None:
        merge.adapter()
        if fault := base.missing():
            raise ModelNotFound(fault, fix="pugc fetch brings it")

    return _choice(there)


def bring(say: Say) -> Choice:
    """The default, after an attempt to bring the model that it needs, told to `say`."""
    return _choice(lambda: merge.folder(say))


def _choice(there: Callable[[], object]) -> Choice:
    if own := os.environ.get(VARIABLE):
        return Choice(own)
    if PREFERRED == FALLBACK:
        return Choice(FALLBACK)
    try:
        there()
    except PugcError as err:
        return Choice(
            FALLBACK,
            f"the base model is not here ({' '.join(err.problem.split())}): "
            f"recipe {FALLBACK} with the bundled 4.3M-parameter model steps in; {err.fix}",
        )
    return Choice(PREFERRED)
