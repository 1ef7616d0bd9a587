"""What the terminal shows while work goes on: how far each stage is and how long it will take, and in words what is
being done where nothing can be counted. Bars in a terminal, else lines; ten seconds without a sign are the most.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from pugc_core import progress
from pugc_core.progress import duration
from pugc_core.stages import STAGES
from pugc_dagster.terminal.safe_text import echo, plain

QUIET = 10.0
"""Seconds after which a line says that the work still goes on."""
_SHORT = 0.5
"""Seconds after which a stage of which nothing is left has ended: its total is what is known so far, and may grow."""
_FIRST = "looking at what is there and what is to be made: a few seconds"
_UNITS = {"policy": "steps", **{name: stage.unit for name, stage in STAGES.items() if stage.unit}}
"""What is counted, by stage."""


class Pace(NamedTuple):
    """When a piece of work was first heard of, and how far it was then."""

    begun: float
    done: int

    def left(self, state: progress.Progress, now: float) -> str:
        """About how long the rest will take, in words; "" while nobody knows."""
        made = state.done - self.done
        if made <= 0 or state.done >= state.total:
            return ""
        seconds = (now - self.begun) * (state.total - state.done) / made
        return f"about {duration(seconds if seconds < 100 else 60 * round(seconds / 60))} left"


@contextmanager
def bars(enabled: bool = True) -> Iterator[None]:
    """Show all progress while the block runs: bars in a terminal, lines on a pipe."""
    if not enabled:
        yield
        return
    with _standard_error() as stream:
        shown = _Bars(Console(file=stream)) if stream.isatty() else Lines(lambda line: echo(line, file=stream))
        with shown.shown():
            yield


@contextmanager
def _standard_error() -> Iterator[TextIO]:
    """Standard error as it is now. While Dagster runs a step it leads to the step's log, where bars would stand still
    and be in the way."""
    try:
        copy = os.dup(sys.stderr.fileno())
    except OSError:  # it has no descriptor
        yield sys.stderr
        return
    with os.fdopen(copy, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors) as stream:
        yield stream


class _Bars:
    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
        )
        self._words = Progress(SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
        self._live = Live(Group(self._bars, self._words), console=console, refresh_per_second=5)
        self._known: dict[str, tuple[TaskID, Pace]] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        with self._live, progress.listen(self._show, self._hear):
            self._hear(_FIRST)
            try:
                yield
            finally:
                self._hear("")

    def _show(self, state: progress.Progress) -> None:
        if state.work not in self._known:
            task = self._bars.add_task(plain(_label(state.work)), note="", left="")
            self._known[state.work] = task, Pace(time.monotonic(), state.done)
        task, pace = self._known[state.work]
        left = pace.left(state, time.monotonic())
        self._bars.update(task, completed=state.done, total=state.total, note=plain(state.note), left=left)
        if state.done < state.total:  # of a total that has grown: its clock goes on
            next(each for each in self._bars.tasks if each.id == task).finished_time = None
        self._hear("")

    def _hear(self, text: str) -> None:
        for task in self._words.task_ids:
            self._words.remove_task(task)
        if text:
            for bar in self._bars.task_ids:  # nothing comes of it meanwhile
                self._bars.update(bar, left="")
            self._words.add_task(plain(text), total=None)


class Lines:
    """For what is no terminal: a line when something begins or has ended and, while it lasts, every QUIET seconds."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._lock = threading.RLock()
        self._paces: dict[str, Pace] = {}
        self._state: progress.Progress | None = None
        self._words = ""
        self._since = self._last = clock()

    @contextmanager
    def shown(self) -> Iterator[None]:
        over = threading.Event()

        def wake() -> None:
            while not over.wait(_SHORT):
                self.tick()

        thread = threading.Thread(target=wake, daemon=True)
        with progress.listen(self.show, self.hear):
            self.hear(_FIRST)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                self.hear("")

    def show(self, state: progress.Progress) -> None:
        """Take note of how far a piece of work is."""
        with self._lock:
            if self._words or (self._state and self._state.work != state.work):
                self.hear("")
            self._paces.setdefault(state.work, Pace(self._clock(), state.done))
            self._state, self._since = state, self._clock()

    def hear(self, text: str) -> None:
        """Take note of what is being done; what was before it has ended, or waits."""
        with self._lock:
            if self._state and self._state.done >= self._state.total:
                self._say(self._line(self._state))
            self._state = None
            self._words, self._since = text, self._clock()
            self._last = min(self._last, self._since - QUIET)  # what is new is told without waiting
            if text:
                self._say(text)

    def tick(self) -> None:
        """Say what there is to say, if it is time."""
        with self._lock:
            now = self._clock()
            lasted, due = now - self._since, now - self._last >= QUIET
            if self._state and self._state.done >= self._state.total:
                if lasted >= _SHORT:
                    self.hear("")
            elif self._state and due:
                self._say(self._line(self._state))
            elif self._words and due:
                self._say(f"{self._words} ({duration(lasted)} so far)")

    def _line(self, state: progress.Progress) -> str:
        pace, unit = self._paces[state.work], _unit(state.work)
        count = f"{state.total:,}" if state.done >= state.total else f"{state.done:,} of {state.total:,}"
        took = f"in {duration(self._since - pace.begun)}" if state.done >= state.total else ""
        more = ", ".join(filter(None, (took or pace.left(state, self._clock()), state.note)))
        return f"{state.work}: {count} {unit}".rstrip() + (f" ({more})" if more else "")

    def _say(self, line: str) -> None:
        self._last = self._clock()
        self._write(line)


def _unit(work: str) -> str:
    return _UNITS.get(work.rpartition(" ")[2].partition("/")[0], "")


def _label(work: str) -> str:
    """ "tiny rewards" as "rewards: votes"; one terminal shows one recipe."""
    unit = _unit(work)
    return f"{work.rpartition(' ')[2]}: {unit}" if unit else work
