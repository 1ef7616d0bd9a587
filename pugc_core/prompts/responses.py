"""What the policy is asked: the instruction itself, as its users would send it (paper section 3.2). Where answers are
wanted that differ, it is shown those that it gave before (VARIED).

There is nothing to parse: the answer is the response, stripped. An empty one is dropped as `empty`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pugc_core.prompts.base import Prompt

PARSER_VERSION = 1
SLOTS = ("instruction",)
WORDINGS = {
    "default": Prompt(user="{instruction}", slots=SLOTS),
    # For small models, whose long answers wander off and are paid for by the token.
    "brief": Prompt(user="{instruction}\nAnswer in two or three sentences.", slots=SLOTS),
}
VARIED_SLOTS = ("instruction", "earlier")
_BESIDE = """{instruction}

These answers to that request were given before:

{earlier}

"""
VARIED = {
    "earlier": Prompt(
        user=_BESIDE
        + """Give one more answer to the same request, as unlike all of these as an honest answer can be: choose other \
points, another view, another order or another tone. Write only that answer, and do not mention the earlier ones.""",
        slots=VARIED_SLOTS,
    ),
    "earlier-brief": Prompt(
        user=_BESIDE + "Give another answer to that request, in two or three sentences. Say something else than these.",
        slots=VARIED_SLOTS,
    ),
}
"""Wordings for the answers after the first, by name."""


def listed(answers: Sequence[str]) -> str:
    """Earlier answers, as they stand in a prompt."""
    return "\n\n".join(f"Answer {number}: {answer}" for number, answer in enumerate(answers, 1))


def parse(answer: str) -> str:
    """The response without surrounding blank space."""
    return answer.strip()
