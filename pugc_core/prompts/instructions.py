"""The question a reader would have asked to get this post as the answer (paper section 3.1, "reader instruction").

Contract: one question or instruction and nothing else. An answer that is empty, too long or that talks about "the
context" is kept in the table and dropped with that reason.
"""

from __future__ import annotations

import re

from pugc_core.prompts.answers import unended
from pugc_core.prompts.base import Prompt

PARSER_VERSION = 2
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
    "post-first": Prompt(
        user="""###Reference Document:
{ugc}
###Task Description:
Write the question that this document answers, and nothing else. The question must be understandable without the document.
<example start> {example} <example end>""",
        slots=SLOTS,
        markers=(*MARKERS, "###Reference Document:", "###Task Description:"),
    ),
}

_LABEL = re.compile(r"^\s*(?:\*\*)?(?:question|instruction|query)(?:\*\*)?\s*:\s*(?:\*\*)?\s*", re.IGNORECASE)
_MARKS = re.compile(r"[ \t]*(?:</?s>|<(?:example|context) (?:start|end)>)[ \t]*")
_BLANK_LINES = re.compile(r"\n{3,}")
# Quotes around the whole; those of `"affect" or "effect"` and the apostrophe of `'What's new?'` stay.
_QUOTED = re.compile(r"""["“]([^"“”]*)["”]|'((?:[^']|(?<=\w)'(?=\w))*)'""")


def parse(answer: str) -> str:
    """The instruction alone: without a leading label, surrounding quotes, markers or blanks at the ends of its lines. Its
    lines stay, since some are code. May be empty."""
    text = _MARKS.sub(" ", unended(answer))
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = _LABEL.sub("", _BLANK_LINES.sub("\n\n", text).strip())
    quoted = _QUOTED.fullmatch(text)
    return (quoted.group(1) or quoted.group(2) or "").strip() if quoted else text


_TEXT = r"(?:context|text|passage|document|article|post|excerpt|essay|blog post|snippet)"
# "the text field", "this document format", "the context of the war" are things of their own, not the text behind us.
_OWN = r"(?!\w|[\s-]+(?:of\b|office|box|message|field|file|format|editor|processor|area|node|selection|colou?r|size|style|card))"
_THE = rf"\b(?:the|this)\s+{_TEXT}{_OWN}"
_WHO = r"\b(?:the|this)\s+(?:author|writer|poster)(?!['’]?\w)(?!\s+of\b)"
_TELLS = (
    r"(?:say|tell|mention|describe|state|suggest|explain|argue|discuss|claim|recommend|refer|present|provide|imply|mean"
    r"|conclude|list|give|address|cover|highlight|emphasi[sz]e|talk|focus|note|offer|propose|define|identif|advise|warn|compare)"
    r"(?:y|s|es|ies|d|ed)?\b"
)
_REFERS = re.compile(
    rf"\b(?:the\s+|this\s+)?(?:given|provided|above|preceding|aforementioned)\s+{_TEXT}{_OWN}"
    rf"|\b(?:the\s+)?following\s+{_TEXT}{_OWN}(?![^\n:]*:\s*\S)"  # unless it does follow
    rf"|\b(?:according\s+to|based\s+on|as\s+per)\s+(?:{_THE}|{_WHO})"
    rf"|\b(?:mentioned|described|discussed|stated|outlined|presented|explained|quoted|cited|listed|referenced|suggested|recommended"
    rf"|covered|provided|given|shared)\s+(?:above\b|(?:here\s+)?(?:in|by)\s+(?:{_THE}|{_WHO}))"
    rf"|{_THE}\s+(?:\w+ly\s+)?{_TELLS}"
    rf"|\b(?:what|why|how|which|when|where|who)\b[^.?!\n]{{0,60}}\b(?:does|did|has|had|is|was)\s+{_WHO}"
    rf"|\b(?:is|are|was|were)\s+{_THE}\s+(?:structured|organi[sz]ed|written|about|called|based|trying|saying)"
    rf"|\b(?:ideas?|points?|themes?|messages?|arguments?|topics?|purposes?|tone|title|subject|summary)\s+(?:of|in)\s+{_THE}"
    rf"|\b(?:summari[sz]e|paraphrase|rephrase|interpret|critique|analy[sz]e)\s+{_THE}",
    re.IGNORECASE,
)
_WITHIN = re.compile(
    rf"\b(?:in|of|about)\s+(?:this\s+(?:passage|text|article|post|excerpt|context){_OWN}|{_THE}\s*(?:[?.!,;:)]|$))"
    rf"|\b(?:from|using|given)\s+{_THE}(?![^\n:]*:\s*\S)",
    re.IGNORECASE,
)
# Somebody at work with a document of their own: "How do I insert a table in the document?"
_AT_WORK = re.compile(
    r"^\W*(?:how\s+(?:do|can|could|should|would|to|might)\b|what(?:['’]s| is) the \w+ way\b)", re.IGNORECASE
)


def refers_to_context(instruction: str) -> bool:
    """Whether the instruction leans on the text it was made from, which its later reader will not see."""
    if _REFERS.search(instruction):
        return True
    return bool(_WITHIN.search(instruction)) and not _AT_WORK.match(instruction)


_CANNOT = (
    r"(?:can(?:['’]?t|not| not)|could(?:n['’]t| not)|(?:am|['’]m) (?:un|not )able to|won['’]?t|will not"
    r"|(?:must|have to|need to) (?:respectfully )?(?:decline|refuse) to)"
)
_SORRY = r"(?:(?:I(?:['’]m| am) )?(?:very |so |really |truly )?sorry|(?:my )?apologies|I apologi[sz]e|unfortunately)"
_ASKED = r"(?:that|this|your?|(?:an?y?|the|such)\b[^.?!\n]{0,40}?\b(?:questions?|instructions?|quer(?:y|ies)|requests?|prompts?))\b"
_REFUSES = re.compile(
    # "As an AI, I ...", "I'm sorry, but as an AI language model, I ...", "I am only a language model."
    rf"^(?:{_SORRY}\b[\s,.;:–—-]*(?:but\s+)?)?as an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"[^.?!\n]{0,60}?,\s*I\b"
    r"|^I(?:['’]m| am) (?:just |only |merely )?an? (?:AI|(?:large )?language model)(?: language)?(?: model| assistant)?[,.;]",
    re.IGNORECASE,
)
_DECLINES = re.compile(
    rf"^{_SORRY}\b[\s,.;:–—-]*(?:but\s+)?(?:I\s*{_CANNOT}|I (?:do not|don['’]t)\b|(?:the|this|there)\b)"
    rf"|^{_SORRY}[\s,.;:–—-]*but\b"
    rf"|^I\s*{_CANNOT} (?:\w+ly )?(?:(?:help|assist)(?: you)? with\b|(?:help|assist) you\b|assist\b|fulfil|comply\b"
    rf"|(?:provide|generate|create|produce|formulate|write|answer|complete|respond to|engage in|engage with|do|support) {_ASKED})",
    re.IGNORECASE,
)
_OFFERS = re.compile(
    r"(?:is there|would you like|do you (?:have|want|need)|can I|could I|may I|how (?:can|may|else) |what (?:else|other)"
    r"|could you (?:please )?(?:provide|share|rephrase|clarify))[^.?!\n]*\?",
    re.IGNORECASE,
)


def refuses(instruction: str) -> bool:
    """Whether the model declined to write one ("I'm sorry, but I can't help with that."). A person who cannot do
    something and asks about it does not refuse: such a text goes on to a question of its own."""
    if _REFUSES.search(instruction):
        return True
    return bool(_DECLINES.search(instruction)) and "?" not in _OFFERS.sub("", instruction)
