"""One vote on a response with the post as reference (paper section 3.3; wire format of Prometheus 2).

Contract: feedback, then `[RESULT] k`, k from 1 to 5. Unparsable means the vote is missing, never a number: more
draws are made until N votes are valid or the limit is reached.

The headings and `[RESULT]` are what Prometheus was trained on and stand to the letter; the wording is ours. The
reference comes after the response, so the N votes of one response share their whole prompt and are asked for at once.
"""

from __future__ import annotations

import re

from pugc_core.prompts.base import Prompt

PARSER_VERSION = 1
SLOTS = ("instruction", "response", "ugc")
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


def _judge(task: str, heading: str) -> Prompt:
    return Prompt(
        system=_SYSTEM,
        user=f"""###Task Description:
You are given an instruction (which may contain an input), a response to evaluate, {task}, and a score rubric that states the criteria.
1. Write detailed feedback on the quality of the response, judged by the score rubric alone and not by general impressions.
2. After the feedback, give a score: an integer between 1 and 5, chosen by the score rubric.
3. The output has this format: "(write a feedback for criteria) [RESULT] (an integer number between 1 and 5)"
4. Write no other opening, closing or explanation.

###The instruction to evaluate:
{{instruction}}

###Response to evaluate:
{{response}}

{heading}
{{ugc}}

###Score Rubrics:
{_RUBRIC}

###Feedback: """,
        slots=SLOTS,
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
}

_MARKER = re.compile(r"\[(?:RESULT|SCORE)\]|\b(?:result|score)[\s*]*:|\bscore of\b", re.IGNORECASE)
_VALUE = re.compile(
    r"[\s*_:\"']*[\[({]?\s*([1-5])(?![^\W_])\s*[\])}]?(?:\s*(?:/|out of)\s*5(?!\d))?\s*[\])}]?"
    r"(?!\s*(?:out of|of|or|to|point|and (?:a|\d))\b)"  # "4 out of 10", "4 or 5", "3 and a half" are no votes
    r"[\s*_.,:;!\"'-]*(?:</s>)?\s*(?=$|\n|[A-Za-z(])"
)


def parse(answer: str) -> int | None:
    """The score behind the last marker, or None.

    Accepts `[RESULT] 4`, `(4)`, `4/5`, `4.`, `4</s>`, `Score: 4`, `4 because ...`; refuses 3.5, 7, `4 or 5`, `4 out of 10`
    and text without a marker. The last marker decides, also when nothing valid follows it.
    """
    markers = list(_MARKER.finditer(answer))
    if not markers:
        return None
    match = _VALUE.match(answer, markers[-1].end())
    return int(match.group(1)) if match else None
