"""Progress of long work, told to whoever listens: a bar in the terminal, or a line in the log now and then."""

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
_listeners: list[Listener] = []
_hearers: list[Hearer] = []


@contextmanager
def listen(listener: Listener, hearer: Hearer = log.info) -> Iterator[None]:
    """Tell `listener` of all progress while the block runs, and `hearer` what is said, instead of the log."""
    _listeners.append(listener)
    _hearers.append(hearer)
    try:
        yield
    finally:
        _listeners.remove(listener)
        _hearers.remove(hearer)


def say(sentence: str) -> None:
    """What is being prepared, where there is nothing to count; told at once."""
    for hearer in _hearers or (log.info,):
        hearer(sentence)


class Reporter:
    """Passes progress on: to the listener at most every 0.1 s, else to the log every `log_seconds`."""

    def __init__(self, work: str, log_line: Callable[[str], object] = log.info, *, log_seconds: float = 10.0) -> None:
        self._work = work
        self._log_line = log_line
        self._log_seconds = log_seconds
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        wait = 0.1 if _listeners else self._log_seconds
        if done < total and time.monotonic() - self._last < wait:
            return
        self._last = time.monotonic()
        for listener in _listeners:
            listener(Progress(self._work, done, total, note))
        if not _listeners:
            self._log_line(f"{self._work}: {done} of {total} {note}".rstrip())
