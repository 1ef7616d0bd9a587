"""One vote on a response with the post as reference (paper section 3.3; wire format of Prometheus 2).

Contract: feedback, then `[RESULT] k`, k from 1 to 5. Unparsable means the vote is missing, never a number: more
draws are made until N votes are valid or the limit is reached.

The headings and `[RESULT]` are what Prometheus was trained on and stand to the letter; the wording is ours. The
reference comes after the response, so the N votes of one response share their whole prompt and are asked for at once.
"""

from __future__ import annotations

import re

from pugc_core.prompts.answers import unmarked
from pugc_core.prompts.base import Prompt

PARSER_VERSION = 2
SLOTS = ("instruction", "response", "ugc")
WITHOUT_POST = ("instruction", "response")
"""The slots where the judge sees no post."""
MARKERS = (
    "###Task Description:",
    "###The instruction to evaluate:",
    "###Response to evaluate:",
    "###Reference Document:",
    "###Reference Answer (Score 5):",
    "###Score Rubrics:",
    "###Feedback:",
    "[RESULT]",
)

_SYSTEM = (
    "You assess responses as an impartial judge: your feedback is clear and objective, rests on the stated criteria alone, "
    "and holds every response to the same absolute standard."
)
_RUBRIC = """[How good is the response, in helpfulness, relevance, accuracy, depth, creativity and level of detail?]
Score 1: Off the request, vague or unfinished. Parts are missing, the question is merely repeated, or the text is advertising or a stray \
forum comment rather than an answer.
Score 2: Touches most of what was asked without answering it. The reader gets a general approach but not the concrete help they wanted.
Score 3: Useful and covers the basics, but reads like a blog post, web page or search result by somebody else instead of an answer to this user.
Score 4: Written as an assistant's answer to this request: complete, clear and free of what is missing or beside the point, with only small \
room for more clarity, brevity or focus.
Score 5: An exemplary answer, fitted to the request: focused, insightful, engaging and easy to follow, with expert knowledge and nothing superfluous."""


def _judge(task: str = "", heading: str = "") -> Prompt:
    """The wording with a post, which `task` says what it is and which stands under `heading`; or with none at all."""
    given, shown = (f", {task}", f"{heading}\n{{ugc}}\n\n") if task else ("", "")
    return Prompt(
        system=_SYSTEM,
        user=f"""###Task Description:
You are given an instruction (which may contain an input), a response to evaluate{given}, and a score rubric that states the criteria.
1. Write detailed feedback on the quality of the response, judged by the score rubric alone and not by general impressions.
2. After the feedback, give a score: an integer between 1 and 5, chosen by the score rubric.
3. The output has this format: "(write a feedback for criteria) [RESULT] (an integer number between 1 and 5)"
4. Write no other opening, closing or explanation.

###The instruction to evaluate:
{{instruction}}

###Response to evaluate:
{{response}}

{shown}###Score Rubrics:
{_RUBRIC}

###Feedback: """,
        slots=SLOTS if task else WITHOUT_POST,
        markers=MARKERS,
    )


WORDINGS = {
    # The paper's reading: the post is a document with relevant information, not a perfect answer.
    "default": _judge("a reference document that contains relevant information", "###Reference Document:"),
    # Prometheus' own reading: the reference is an answer that deserves a 5.
    "prometheus": _judge("a reference answer that would earn a score of 5", "###Reference Answer (Score 5):"),
    "short": Prompt(
        user="""###Task Description:
Compare the response with the reference document. Write feedback, then [RESULT] and a score from 1 to 5.
###The instruction to evaluate:
{instruction}
###Response to evaluate:
{response}
###Reference Document:
{ugc}
###Score Rubrics:
1 off topic, 2 weak, 3 fair, 4 good, 5 excellent.
###Feedback: """,
        slots=SLOTS,
        markers=MARKERS,
    ),
    # The post before the response, so that the responses to one instruction share nearly their whole prompt.
    "post-first": Prompt(
        user="""###Reference Document:
{ugc}
###Task Description:
Compare the response to the instruction with the reference document. Write feedback, then [RESULT] and a score from 1 to 5.
###The instruction to evaluate:
{instruction}
###Response to evaluate:
{response}
###Score Rubrics:
1 off topic, 2 weak, 3 fair, 4 good, 5 excellent.
###Feedback: """,
        slots=SLOTS,
        markers=MARKERS,
    ),
    # For `[rewards] reference = "none"`: `default` and the small ones without the post.
    "no-reference": _judge(),
    "no-reference-short": Prompt(
        user="""###Task Description:
Judge how well the response answers the instruction. Write feedback, then [RESULT] and a score from 1 to 5.
###The instruction to evaluate:
{instruction}
###Response to evaluate:
{response}
###Score Rubrics:
1 off topic, 2 weak, 3 fair, 4 good, 5 excellent.
###Feedback: """,
        slots=WITHOUT_POST,
        markers=MARKERS,
    ),
}

_MARKER = re.compile(r"\[(?:RESULT|SCORE)\]", re.IGNORECASE)
_LOOSE = re.compile(
    r"(?<![^\W_])(?:score|result)[\s*_]*:|(?<![^\W_])score of\b"
    r"|(?:^|(?<=[.!?]))[\s*_#]*score(?=[\s*_]+[1-5])",  # "Score 4" as a sentence of its own, not "the score 4"
    re.IGNORECASE | re.MULTILINE,
)
_DENIED = re.compile(r"\b(?:not|never|cannot|below|than|short|instead)\b|n['’]t\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[.,;:!?\n]")
_DIGIT = (
    r"[\s*_:\"'“”‘’`]*(?:(?:score|result|rating)\b(?: of\b)?[\s*_:]*)?[\[({<]?\s*([1-5])(?![^\W_])\s*[\])}>]?"
    r"(?:\s*(?:/|out of)\s*5(?!\d))?\s*[\])}>]?"
    r"(?![ \t]*(?:out|of|or|to|point|and (?:a|\d))\b)"  # "4 out of 10", "4 or 5", "3 and a half" are no votes
)
_AROUND = r"[\s*_.,:;!\"'“”‘’`…—–-]*"
_VALUE = re.compile(rf"{_DIGIT}{_AROUND}(?=$|\n|[A-Za-z(])", re.IGNORECASE)
_VALUE_AT_END = re.compile(rf"{_DIGIT}{_AROUND}\Z", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")
_LONGEST_SUFFIX = 3
"""Words that can still turn a digit into another number: "4 and a half", "4 out of 10"."""


def parse(answer: str, *, cut_off: bool = False) -> int | None:
    """The score behind the last `[RESULT]` or `[SCORE]`, wherever it stands and whatever is said after it, or None.

    Where there is neither, a looser marker counts (`Score: 4`, `a score of 4`), but only at the end of the text: in its
    midst it speaks of scores in general ("a score of 5 would need more"). Accepts `[RESULT] 4`, `(4)`, `4/5`, `4.`,
    `4</s>`, `4 because ...`; refuses 3.5, 7, `4 or 5`, `4 out of 10`. The last marker decides, also when nothing valid
    follows it.

    Of a `cut_off` answer a score counts only behind `[RESULT]`, and only when its line has ended or more words follow
    than could still change it: "[RESULT] 4" might have become 4.5 or "4 out of 10".
    """
    # In runs of blanks, which models that ramble do write, the patterns below would search for minutes.
    text = _BLANKS.sub(lambda run: "\n" if "\n" in run.group() else " ", unmarked(answer))
    if markers := list(_MARKER.finditer(text)):
        match = _VALUE.match(text, markers[-1].end())
        if match and cut_off and not _settled(text[match.end(1) :]):
            return None
    else:
        match = None if cut_off else _at_end(text)
    return int(match.group(1)) if match else None


def _settled(rest: str) -> bool:
    return "\n" in rest or len(rest.split()) > _LONGEST_SUFFIX


def _at_end(text: str) -> re.Match[str] | None:
    markers = list(_LOOSE.finditer(text))
    if not markers:
        return None
    marker = markers[-1]
    clause = _CLAUSE.split(text[: marker.start()])[-1]
    if marker.group().lower().endswith("of") and _DENIED.search(clause):  # "it does not earn a score of 5"
        return None
    return _VALUE_AT_END.match(text, marker.end())
