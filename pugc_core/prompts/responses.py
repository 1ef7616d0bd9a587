"""What the policy is asked: the instruction itself, as its users would send it (paper section 3.2).

There is nothing to parse: the answer is the response, stripped. An empty one is dropped as `empty`.
"""

from __future__ import annotations

from pugc_core.prompts.base import Prompt

PARSER_VERSION = 1
SLOTS = ("instruction",)
WORDINGS = {
    "default": Prompt(user="{instruction}", slots=SLOTS),
    # For small models, whose long answers wander off and are paid for by the token.
    "brief": Prompt(user="{instruction}\nAnswer in two or three sentences.", slots=SLOTS),
}


def parse(answer: str) -> str:
    """The response without surrounding blank space."""
    return answer.strip()
