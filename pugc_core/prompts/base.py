"""What the prompts share: slots, templates from a user's file, and text of users that never becomes control."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pugc_core.errors import RecipeError
from pugc_core.prompts.markers import broken, headings


class Message(NamedTuple):
    """One chat turn. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


_SLOT = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def neutralise(text: str) -> str:
    """An answer to train on, with turn markers broken up by a backslash ("</s>" becomes "<\\/s>"), so that no tokenizer
    ends a turn within it. Everything else is unchanged, a policy's own `<think>` too."""
    return broken(text, families=("turns",))


@dataclass(frozen=True)
class Prompt:
    """A template whose `{slots}` are filled with other people's words.

    `markers` are the strings that its parser and wording use as structure (section headings, "[RESULT]"): inside a
    slot's value they are broken up too, so that a post cannot close its own section or hand itself a score. Headings
    and tags that the wording has besides are found in it, so a user's prompt file need not name them.
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

    @functools.cached_property
    def structure(self) -> frozenset[str]:
        """Markers, and the headings and tags of the wording itself."""
        return frozenset((*self.markers, *headings(self.system, self.user)))

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits over everything that shapes the rendered text."""
        parts = "\x1f".join((self.system, self.user, *self.markers))
        return hashlib.sha256(parts.encode()).hexdigest()[:12]

    def render(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """Messages with every slot filled; values are neutralised and never read as template."""

        def fill(match: re.Match[str]) -> str:
            slot = match.group(1)
            if slot is None:
                return match.group(0)[0]
            return broken(values[slot], self.structure)

        user = Message("user", _SLOT.sub(fill, self.user))
        return (Message("system", self.system), user) if self.system else (user,)


def load(
    wording: str, wordings: Mapping[str, Prompt], *, slots: tuple[str, ...], markers: tuple[str, ...] = ()
) -> Prompt:
    """The bundled wording of that name, or the prompt in a user's text file of that path.

    A file holds the user text with its slots; a line of only `---` parts an optional system text above it.
    Raises RecipeError naming wording or file when it is missing, not UTF-8, or does not have just these slots.
    """
    if found := wordings.get(wording):
        try:
            return found if found.slots == slots else replace(found, slots=slots)
        except RecipeError as err:
            raise RecipeError(f"wording {wording!r}: {err.problem}", fix="name another wording") from err
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
