"""The question a reader would have asked to get this post as the answer (paper section 3.1, "reader instruction").

Contract: one question or instruction and nothing else. An answer that is empty, too long or that talks about "the
context" is kept in the table and dropped with that reason.
"""

from __future__ import annotations

import re

from pugc_core.prompts.base import Prompt

PARSER_VERSION = 1
SLOTS = ("example", "ugc")
MARKERS = ("<context start>", "<context end>", "<example start>", "<example end>", "###Task Instruction")

# One is shown per post as a pattern to follow. The paper does not say which set it used; these are ours.
EXAMPLES = (
    "How can I stop the tap in my kitchen from dripping without calling a plumber?",
    "Explain why leaves change colour in autumn, in words that a child understands.",
    "What should I look for when I buy a second-hand laptop for school work?",
    "Compare travelling by night train with flying for a trip of about 800 kilometres.",
    "Write a short plan for somebody who wants to run five kilometres within two months.",
    "Why does my dough not rise in a cold kitchen, and what can I do about it?",
)

WORDINGS = {
    "default": Prompt(
        user="""###Task Instruction
Put yourself in the place of a person who wants to know something, and write the question or instruction that the context below answers. \
Follow the pattern of this example of a query.
<example start> {example} <example end>
<context start> {ugc} <context end>
What you write must be answerable in detail from the context. It must be complete and understandable by somebody who sees nothing else, \
and specific rather than general. Write a single question or instruction and nothing besides it, and never mention the context itself.""",
        slots=SLOTS,
        markers=MARKERS,
    ),
    "short": Prompt(
        user="""Write the question that this text answers, like this example.
<example start> {example} <example end>
<context start> {ugc} <context end>""",
        slots=SLOTS,
        markers=MARKERS,
    ),
}

_LABEL = re.compile(r"^\s*(?:\*\*)?(?:question|instruction|query)(?:\*\*)?\s*:\s*(?:\*\*)?\s*", re.IGNORECASE)
# Quotes around the whole; those of `"affect" or "effect"` and the apostrophe of `'What's new?'` stay.
_QUOTED = re.compile(r"""["“]([^"“”]*)["”]|'((?:[^']|(?<=\w)'(?=\w))*)'""")
_REFERS = re.compile(
    r"\b(?:(?:the|this|that|above|given|provided|following)\s+(?:context|text|passage|document|article|post|excerpt)"
    r"|according to (?:the|this) (?:author|writer|context|text|passage|document|article|post))\b"
    r"(?!\s+(?:office|box|message|field|file|editor|colou?r|size))",  # the post office, the text message
    re.IGNORECASE,
)


def parse(answer: str) -> str:
    """The instruction alone: without a leading label, surrounding quotes, markers or blank space. May be empty."""
    text = re.sub(r"</?s>|<(?:example|context) (?:start|end)>", " ", answer)
    text = _LABEL.sub("", " ".join(text.split()))
    quoted = _QUOTED.fullmatch(text)
    return (quoted.group(1) or quoted.group(2) or "").strip() if quoted else text


def refers_to_context(instruction: str) -> bool:
    """Whether the instruction leans on the text it was made from, which its later reader will not see."""
    return bool(_REFERS.search(instruction))
