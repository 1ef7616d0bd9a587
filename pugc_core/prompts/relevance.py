"""Whether the post really answers the instruction (paper section 3.1, the instruction filter).

Contract: exactly True or False, enforced by the engine. Anything else is no verdict: dropped as `unparsable`.
"""

from __future__ import annotations

from pugc_core.prompts.answers import unmarked
from pugc_core.prompts.base import Prompt

PARSER_VERSION = 2
SLOTS = ("ugc", "instruction")
MARKERS = ("###Context", "###Question", "###Task Instruction")
CHOICES = ("True", "False")

WORDINGS = {
    "default": Prompt(
        user="""###Context
{ugc}
###Question
{instruction}
###Task Instruction
Decide whether the context holds information that answers the question: correct, thorough and insightful information, not just the \
same topic. Answer with the single word True or False, with no other characters and no formatting.""",
        slots=SLOTS,
        markers=MARKERS,
    ),
    "short": Prompt(
        user="""###Context
{ugc}
###Question
{instruction}
###Task Instruction
Does the context answer the question? True or False.""",
        slots=SLOTS,
        markers=MARKERS,
    ),
    "post-first": Prompt(
        user="""###Reference Document:
{ugc}
###Task Description:
Does the document answer this question? True or False.
###Question
{instruction}""",
        slots=SLOTS,
        markers=(*MARKERS, "###Reference Document:", "###Task Description:"),
    ),
}


def parse(answer: str) -> bool | None:
    """True, False, or None when the answer is neither word."""
    return {"true": True, "false": False}.get(unmarked(answer).strip(" \t\r\n.*_`\"'").lower())
