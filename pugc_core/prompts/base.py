"""What the prompts share: slots, templates from a user's file, and text of users that never becomes control."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pugc_core.errors import RecipeError


class Message(NamedTuple):
    """One chat turn. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


# Turn and sentence markers of the chat formats in use: <|im_start|>, <|eot_id|>, [INST], <<SYS>>, </s>, <start_of_turn> ...
CONTROL = re.compile(
    r"<[|｜][^|｜<>\s]{1,40}[|｜]>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
    r"|</?(?:s|unk|pad|bos|eos|mask|start_of_turn|end_of_turn)>",
    re.IGNORECASE,
)
_SLOT = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def _defang(match: re.Match[str]) -> str:
    token = match.group(0)
    return f"{token[0]} {token[1:]}"


def neutralise(text: str) -> str:
    """`text` with chat-control strings broken up by a space ("</s>" becomes "< /s>"), so that no tokenizer
    reads a user's words as a turn marker. Everything else is returned unchanged."""
    return CONTROL.sub(_defang, text)


@dataclass(frozen=True)
class Prompt:
    """A template whose `{slots}` are filled with other people's words.

    `markers` are the strings that the wording itself uses as structure (section headings, "[RESULT]"): inside a
    slot's value they are broken up too, so that a post cannot close its own section or hand itself a score.
    """

    user: str
    slots: tuple[str, ...]
    system: str = ""
    markers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found = {m.group(1) for m in _SLOT.finditer(self.user) if m.group(1)}
        for slot in self.slots:
            if slot not in found:
                raise RecipeError(
                    f"prompt lacks the slot {{{slot}}}", fix=f"put {{{slot}}} where the {slot} belongs in the text"
                )
        for extra in sorted(found - set(self.slots)):
            raise RecipeError(
                f"prompt has an unknown slot {{{extra}}}; known: {', '.join(self.slots)}",
                fix=f"remove it, or write {{{{{extra}}}}} for literal braces",
            )

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits over everything that shapes the rendered text."""
        parts = "\x1f".join((self.system, self.user, *self.markers))
        return hashlib.sha256(parts.encode()).hexdigest()[:12]

    def render(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """Messages with every slot filled; values are neutralised and never read as template."""
        guard = re.compile("|".join(re.escape(m) for m in self.markers), re.IGNORECASE) if self.markers else None

        def fill(match: re.Match[str]) -> str:
            slot = match.group(1)
            if slot is None:
                return match.group(0)[0]
            value = neutralise(values[slot])
            return guard.sub(_defang, value) if guard else value

        user = Message("user", _SLOT.sub(fill, self.user))
        return (Message("system", self.system), user) if self.system else (user,)


def load(
    wording: str, wordings: Mapping[str, Prompt], *, slots: tuple[str, ...], markers: tuple[str, ...] = ()
) -> Prompt:
    """The bundled wording of that name, or the prompt in a user's text file of that path.

    A file holds the user text with its slots; a line of only `---` parts an optional system text above it.
    Raises RecipeError naming the file when it is missing, not UTF-8, or lacks a slot.
    """
    if wording in wordings:
        return wordings[wording]
    path = Path(wording)
    if not path.is_file():
        raise RecipeError(
            f"no prompt {wording!r}: neither a file nor one of {', '.join(sorted(wordings))}",
            fix="name a bundled wording or the path of a text file",
        )
    try:
        text = path.read_text(encoding="utf-8-sig").strip("\n")
    except UnicodeDecodeError as err:
        raise RecipeError(f"prompt file {path} is not UTF-8: {err}", fix="save it as UTF-8") from err
    system, bar, user = text.partition("\n---\n")
    try:
        return Prompt(user=user if bar else text, system=system if bar else "", slots=slots, markers=markers)
    except RecipeError as err:
        raise RecipeError(f"{path}: {err.problem}", fix=err.fix) from err
