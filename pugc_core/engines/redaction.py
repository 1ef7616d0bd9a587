"""What is shown nowhere: keys of servers, and users and passwords in their URLs."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

_SHORT = 8
"""Secrets with fewer characters may be ordinary words: hidden in messages where they stand alone, never in answers."""
_LONG_WORD = 20
"""As long a secret is no ordinary word, whatever its letters."""


def without_credentials(url: str) -> str:
    """A URL, or what was meant as one, without user and password."""
    start, slashes, rest = url.partition("//") if "//" in url else ("", "", url)
    return f"{start}{slashes}{rest.rpartition('@')[2]}"


def credentials(url: str) -> tuple[str, str] | None:
    """User and password in a URL, decoded; None where it has none."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return None
    return unquote(parts.username or ""), unquote(parts.password or "")


def authorization(api_key: str | None, login: tuple[str, str] | None) -> Mapping[str, str]:
    """The header that carries a login or, where there is none, the key."""
    if login is not None:
        return {"Authorization": f"Basic {_basic(login)}"}
    return {"Authorization": f"Bearer {api_key.strip()}"} if api_key else {}


class Secrets:
    """Hides an API key and the logins of `urls` in whatever a server says."""

    def __init__(self, api_key: str | None, urls: tuple[str, ...] = ()) -> None:
        words, names = {(api_key or "").strip()}, set()
        for url in urls:
            if login := credentials(url):
                raw = urlsplit(url).netloc.rpartition("@")[0]
                words |= {login[1], ":".join(login), raw, raw.partition(":")[2], _basic(login)}
                names.add(login[0])
        # Also as they stand in JSON, since what a server says is hidden before it is read.
        words |= {json.dumps(word, ensure_ascii=ascii_only)[1:-1] for word in words for ascii_only in (True, False)}
        self._messages = _pattern(words | names)
        self._answers = _pattern({w for w in words if len(w) >= _LONG_WORD or (len(w) >= _SHORT and not w.isalpha())})

    def hide(self, message: str) -> str:
        """A message for people, without the secrets."""
        return self._messages.sub("***", message)

    def hide_in_answer(self, text: str) -> str:
        """A model's answer, without the secrets that cannot be ordinary words."""
        return self._answers.sub("***", text)


def _basic(login: tuple[str, str]) -> str:
    return base64.b64encode(":".join(login).encode()).decode()


def _pattern(words: set[str]) -> re.Pattern[str]:
    longest_first = sorted(words - {"", ":"}, key=lambda w: (-len(w), w))
    each = (re.escape(w) if len(w) >= _SHORT else rf"(?<!\w){re.escape(w)}(?!\w)" for w in longest_first)
    return re.compile("|".join(each) or r"(?!)")
