"""Quality of a post as a source of a question and its answer (paper section 3.1, appendix prompt "quality").

Contract: some reasoning, then a last line `Score: k`, k from 1 to 5. Unparsable means no score: the row is dropped
as `unparsable`, never counted as 1.
"""

from __future__ import annotations

import re

from pugc_core.prompts.answers import unmarked
from pugc_core.prompts.base import Prompt

PARSER_VERSION = 2
SLOTS = ("ugc",)
MARKERS = ("<document start>", "<document end>")

WORDINGS = {
    "default": Prompt(
        user="""You are given a text that somebody published. Judge how well it would serve as the source of a realistic \
user query and of a strong answer to that query by an AI assistant. Use this scale:
1: Unusable. The text is broken off, vague, off its own topic or advertising; nobody's question is answered and nothing original is said.
2: Weak. A general idea or outline comes across, but what a reader would need for an answer is mostly missing.
3: Fair. Complete and helpful on the basics, yet generic: the common points are there without depth or insight.
4: Good. Clear, well ordered and informative; a query and a full answer can be drawn from it, with only small faults in clarity, brevity or focus.
5: Excellent. Expert knowledge or real experience, told clearly and with ideas of its own; a model of how an assistant should answer.
Reason briefly first. Then finish with a last line that has exactly this form: "Score: " followed by the number.
<document start>
{ugc}
<document end>""",
        slots=SLOTS,
        markers=MARKERS,
    ),
    # For small models: the same slots and the same contract in a fifth of the tokens.
    "short": Prompt(
        user="""How good is this post as a source for a question and its answer? 1 is useless, 5 is excellent. \
Give a reason, then a last line "Score: k".
<document start>
{ugc}
<document end>""",
        slots=SLOTS,
        markers=MARKERS,
    ),
    # The post first, as in the other three wordings of this name: what they share is read once (prefix caching).
    "post-first": Prompt(
        user="""###Reference Document:
{ugc}
###Task Description:
How good is this document as a source for a question and its answer? 1 is useless, 5 is excellent. \
Give a reason, then a last line "Score: k".""",
        slots=SLOTS,
        markers=(*MARKERS, "###Reference Document:", "###Task Description:"),
    ),
}

_SCORE = re.compile(r"(?<![^\W_])score[\W_]{0,6}(?<![-+.,])([1-5])(?:\s*(?:/|out of)\s*5)?[\W_]*$", re.IGNORECASE)


def parse(answer: str, *, cut_off: bool = False) -> int | None:
    """The score on the last line that has a letter or digit, 1 to 5; None when that line holds none, or when the answer
    was `cut_off` within it: nobody knows what else it would have held."""
    text = unmarked(answer)
    if cut_off and not text.endswith("\n"):
        return None
    said = [line for line in text.splitlines() if any(letter.isalnum() for letter in line)]
    match = _SCORE.search(said[-1]) if said else None
    return int(match.group(1)) if match else None
