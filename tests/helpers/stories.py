"""The recipe that the browser stories run: `tiny`, and where pictures are taken the one that users see, `laptop`."""

from __future__ import annotations

import os

RECIPE = "laptop" if "PUGC_PICTURES" in os.environ else "tiny"
PATIENCE = 8 if RECIPE == "laptop" else 1
"""How many times as long its runs take."""
