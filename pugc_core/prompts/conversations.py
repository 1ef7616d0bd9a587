"""A conversation that a classifier scores, and its score: the user asks the instruction, the assistant gives the response.

The response is the assistant's turn, whatever the wording: a wording is what the user says (and a system text). The
post is shown where a prompt file has the slot {ugc}. The answer is the score as Python writes a float, which loses nothing.
"""

from __future__ import annotations

import math

from pugc_core.errors import RecipeError
from pugc_core.prompts import base
from pugc_core.prompts.base import Prompt

PARSER_VERSION = 1
SLOTS = ("instruction",)
POST = "ugc"
WORDINGS = {"default": Prompt(user="{instruction}", slots=SLOTS)}


def load(wording: str) -> Prompt:
    """The wording of that name, or that of a prompt file. Raises RecipeError like `prompts.base.load`."""
    try:
        return base.load(wording, WORDINGS, slots=(*SLOTS, POST))
    except RecipeError:
        return base.load(wording, WORDINGS, slots=SLOTS)


def parse(answer: str) -> float | None:
    """The score; None for what is not a finite number, as a model with broken weights gives."""
    try:
        score = float(answer)
    except ValueError:
        return None
    return score if math.isfinite(score) else None
