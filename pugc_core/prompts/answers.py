"""What models put around an answer: end markers that a server or tokenizer left in the text."""

from __future__ import annotations

import re

_END = re.compile(r"</?s>|<[|｜][^|｜<>\s]{1,40}[|｜]>|<(?:eos|end_of_turn)>", re.IGNORECASE)
_LAST = re.compile(rf"(?:\s*(?:{_END.pattern}))+\s*$", re.IGNORECASE)


def unmarked(answer: str) -> str:
    """The answer with a line break in place of each end marker ("4</s>" becomes "4\\n"): what stood before one ended."""
    return _END.sub("\n", answer)


def unended(answer: str) -> str:
    """The answer without the end markers that it ends in; those in its midst are its own words."""
    return _LAST.sub("", answer)
