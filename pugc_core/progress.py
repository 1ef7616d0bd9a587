"""Progress of long work, told to whoever listens: a bar in the terminal, or a line in the log now and then.

What can be counted is told by a `Reporter`, what cannot (loading a model, say) in words, by `doing` or `say`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

log = logging.getLogger("pugc")


class Progress(NamedTuple):
    """How far a piece of work is. `total` is what is known so far and may grow."""

    work: str
    done: int
    total: int
    note: str = ""


Listener = Callable[[Progress], None]
Hearer = Callable[[str], object]
"""Is told what is being done, in words; "" when that is over."""
_listeners: list[tuple[Listener, Hearer]] = []


@contextmanager
def listen(listener: Listener, hear: Hearer = lambda text: None) -> Iterator[None]:
    """Tell `listener` of all progress, and `hear` what is being done, while the block runs, instead of the log."""
    both = (listener, hear)
    _listeners.append(both)
    try:
        yield
    finally:
        _listeners.remove(both)


def say(text: str) -> None:
    """Tell what is being done from now on and, as far as anyone knows, how long it takes; "" when it is over."""
    for _, hear in _listeners:
        hear(text)
    if text and not _listeners:
        log.info(text)


@contextmanager
def doing(text: str) -> Iterator[None]:
    """`say` it while the block runs."""
    say(text)
    try:
        yield
    finally:
        say("")


def duration(seconds: float) -> str:
    """A time in words: "8 s", "2 min 10 s"."""
    whole = max(1, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")


class Reporter:
    """Passes progress on: to the listener at once and then at most every 0.1 s, else to the log every `log_seconds`."""

    def __init__(self, work: str, log_line: Callable[[str], object] = log.info, *, log_seconds: float = 10.0) -> None:
        self._work = work
        self._log_line = log_line
        self._log_seconds = log_seconds
        self._last = time.monotonic()
        self._told = False

    def __call__(self, done: int, total: int, note: str = "") -> None:
        wait = 0.1 if _listeners else self._log_seconds
        heard = self._told or not _listeners
        if done < total and heard and time.monotonic() - self._last < wait:
            return
        self._last, self._told = time.monotonic(), True
        for listener, _ in _listeners:
            listener(Progress(self._work, done, total, note))
        if not _listeners:
            self._log_line(f"{self._work}: {done} of {total} {note}".rstrip())
