"""Structure that other people's words must not forge: section headings, tags, `[RESULT]`, and chat-control strings.

A text is matched as a reader sees it, not as it is coded: `［RESULT］`, `[R\u200bESULT]`, `[ result ]` and `[ʀᴇꜱᴜʟᴛ]` are all
`[RESULT]`. Only what matches is changed, by one backslash behind its first character: `[\\RESULT]`. (A space would not do:
spaces do not count when a marker is looked for.)
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable

BREAK = "\\"

# What stands for a letter or for punctuation of a marker without being one to Unicode.
_LOOKALIKES = str.maketrans(
    "авгеіјкмнорԛсѕтухԁһԝαβεικνορτυχ【〔⟦⟬❲⁅〖〚】〕⟧⟭❳⁆〗〛‹〈⟨❮〈˂ᐸ›〉⟩❯〉˃ᐳ♯⋕│∣ǀ❘⎸꞉∶ː∕⁄⧸",
    "abreijkmhopqcstyxdhwabeiknoptux[[[[[[[[]]]]]]]]<<<<<<<>>>>>>>##|||||:::///",
)
_LETTER = re.compile(
    r"(?:.*\bLATIN|REGIONAL INDICATOR SYMBOL)\b.* LETTER (?:SMALL CAPITAL |DOTLESS )?([A-Z])(?: WITH .*)?"
)
_BLANK = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that show nothing though Unicode counts them as letters or symbols."""
_UNSEEN = ("Cc", "Cf", "Mn", "Mc", "Me")
"""Control and format characters (zero width, bidirectional), combining marks."""


class _Folding(dict[int, str]):
    """Code point to what it looks like; worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        seen = "".join(_look(part) for part in unicodedata.normalize("NFKD", chr(code)))
        self[code] = seen
        return seen


def _look(char: str) -> str:
    if char.isspace():
        return "\n" if char in "\n\r\v\f\x85\u2028\u2029" else " "
    if char in _BLANK or unicodedata.category(char) in _UNSEEN:
        return ""
    name = unicodedata.name(char, "")
    letter = _LETTER.fullmatch(name)
    if letter:
        return letter.group(1).lower() if "SMALL LETTER" in name else letter.group(1)
    seen = char.lower().translate(_LOOKALIKES)
    return (seen.upper() if char.isupper() else seen) if seen.isascii() else char


_FOLDING = _Folding()


def fold(text: str) -> str:
    """`text` as it is matched, but for case. Each character folds by itself, to no, one or several characters."""
    return text.translate(_FOLDING)


# Chat-control strings of the model families in use, behind their first character; `~` stands for optional space.
# Forms that occur in code count only to the letter: <| b |>, a < s > b, array[mask]. A loaded tokenizer's are added to them.
_FAMILIES = {
    # What begins or ends a turn or a text: <|im_start|>, <|eot_id|>, <｜end▁of▁sentence｜>, <|turn>, </s>, <<SYS>>, [INST] ...
    "turns": (
        r"<(?i:\|[^|<>\s]{1,40}\|>)",
        r"<(?i:\|?(?:turn|channel)\|?>)",
        r"<(?i:/?s>)",
        r"<(?i:~/?~(?:unk|pad|bos|eos|cls|sep|mask|(?:start|end|begin)_of_\w{1,20})~>)",
        r"<(?i:~<~/?~sys~>~>)",
        r"\[(?i:~/?~(?:inst|system_prompt|available_tools|tool_calls|tool_results)~\])",
        r"\[~(?:BOS|EOS|CLS|SEP|MASK|gMASK|sMASK|PAD|UNK)~\]",
    ),
    # What models write within an answer, and so learn to write: thoughts, calls of tools; and what they never write.
    "inner": (
        r"<(?i:\|?(?:think|tool|tool_call|tool_response)\|?>)",
        r"<(?i:~/?~(?:think|thinking|tool_calls?|tool_response|tools|fim_\w{1,20}|seed:\w{1,20})~>)",
        r"<(?i:~(?:unused|extra_id_|reserved_|reserved_token_|reserved_special_token_|special_)~\d{1,6}~>)",
        r"\[(?i:~/?~(?:think|model_settings|tool_content|call_id)~\])",
        r"\[~(?:ARGS|unused~\d{1,4})~\]",
    ),
}
_GAP = "[ \\n]*"


def _spaced(marker: str) -> str:
    """The pattern of a marker behind its first character, spaces or none. A heading's colon may be missing where its line ends."""
    heading = marker.startswith("#") and marker.endswith(":")
    pattern = "".join(f"{_GAP}{re.escape(char)}" for char in (marker[1:-1] if heading else marker[1:]))
    return f"(?i:{pattern} *(?:{_GAP}:|\\n|$))" if heading else f"(?i:{pattern})"


@functools.lru_cache(maxsize=256)
def _pattern(markers: frozenset[str], tokens: frozenset[str], families: tuple[str, ...]) -> re.Pattern[str]:
    """Matches the first character of each. `markers` match in any case and with spaces anywhere, `tokens` as they are.

    One character is taken and the rest looked ahead at, so that markers within markers are found, and the search
    runs over what is no marker's first character at full speed.
    """
    rests: dict[str, set[str]] = {}
    for known in (known for family in families for known in _FAMILIES[family]):
        rests.setdefault(known.removeprefix("\\")[0], set()).add(known.removeprefix("\\")[1:].replace("~", _GAP))
    for marker in {re.sub(r"\s", "", fold(m)) for m in markers} - {""}:
        rests.setdefault(marker[0], set()).add(_spaced(marker))
    for token in {fold(t) for t in tokens} - {""}:
        # Gemma's thousands, <unused0> to <unused6241>, are one.
        rests.setdefault(token[0], set()).add(re.sub(r"\d+", r"\\d+", re.escape(token[1:])))
    branches = [f"{re.escape(first)}(?={'|'.join(sorted(rest))})" for first, rest in sorted(rests.items())]
    return re.compile("|".join(branches) or r"(?!)")


def broken(
    text: str,
    markers: Iterable[str] = (),
    *,
    tokens: Iterable[str] = (),
    families: tuple[str, ...] = ("turns", "inner"),
) -> str:
    """`text` with a backslash in every marker, token and control string of the families; unchanged where there is none."""
    pattern = _pattern(frozenset(markers), frozenset(tokens), families)
    starts = [match.start() for match in pattern.finditer(fold(text))]
    if not starts:
        return text
    pieces, begin, place, wanted = [], 0, 0, iter(starts)
    start: int | None = next(wanted)
    for index, char in enumerate(text):
        place += len(_FOLDING[ord(char)])
        if start is not None and start < place:
            pieces += [text[begin : index + 1], BREAK]
            begin = index + 1
            while start is not None and start < place:
                start = next(wanted, None)
    return "".join([*pieces, text[begin:]])


_TAG = re.compile(r"</?[^\W\d_][^<>{}\n]{0,60}>|\[/?[^\W\d_][^\[\]{}\n]{0,60}\]")
_HEADING = re.compile(r"^[ \t]*((?:#|[=*~_-]{2})[^{\n]*[^\W\d_][^{\n]*)", re.MULTILINE)


def headings(*templates: str) -> tuple[str, ...]:
    """What a prompt's own wording uses as structure: lines that begin with `#`, `==`, `**` and the like (up to a slot),
    `<tags>` and `[words]` in brackets."""
    found = [m.group(0) for text in templates for m in _TAG.finditer(text)]
    found += [m.group(1).strip() for text in templates for m in _HEADING.finditer(text)]
    return tuple(dict.fromkeys(found))


def control_tokens(special: Iterable[str], added: Collection[str]) -> frozenset[str]:
    """Of a tokenizer's tokens those that steer it: the special ones, and of the other added ones what looks like a marker
    (`<think>`, `[IMG]`, `|||EMAIL|||`) and is no HTML (Gemma has `<table>`) and no mere space."""
    from lxml.html.defs import tags

    marked = {t for t in added if re.fullmatch(r"<.+>|\[.+\]|\|.+\|", t) and t.strip("</>") not in tags}
    return frozenset(t for t in {*special, *marked} if len(fold(t).strip()) > 1)
