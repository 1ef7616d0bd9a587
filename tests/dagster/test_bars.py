"""Progress in the terminal, by a clock of the test's own: what is said, when, and how long the rest will take."""

from __future__ import annotations

import io
import itertools
import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from pugc_core import progress
from pugc_core.engines import EngineHost
from pugc_core.engines.scripted import ScriptedEngine
from pugc_core.models.spec import ModelSpec
from pugc_core.progress import Progress
from pugc_dagster.terminal import bars


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[bars.Lines, Clock, list[str]]:
    clock, said = Clock(), list[str]()
    return bars.Lines(said.append, clock), clock, said


def test_how_long_the_rest_will_take() -> None:
    """20 of 100 were there when it began; 30 more took 15 s, so the 50 that are left take 25 s."""
    pace = bars.Pace(begun=100.0, done=20)
    assert pace.left(Progress("w", 50, 100), 115.0) == "about 25 s left"
    assert pace.left(Progress("w", 50, 500), 115.0) == "about 4 min left"
    assert pace.left(Progress("w", 20, 100), 115.0) == ""
    assert pace.left(Progress("w", 100, 100), 115.0) == ""
    spoken = {0.2: "1 s", 59.4: "59 s", 60: "1 min", 130: "2 min 10 s", 3600: "60 min"}
    assert {seconds: progress.duration(seconds) for seconds in spoken} == spoken


def test_work_is_heard_of_when_it_begins() -> None:
    """Its first answer may take a minute; what follows at once is not news."""
    said: list[Progress] = []
    with progress.listen(said.append):
        tell = progress.Reporter("tiny rewards")
        for done in range(3):
            tell(done, 20)
        tell(20, 20)
    assert [state.done for state in said] == [0, 20]


def test_lines_tell_the_beginning_the_way_and_the_end() -> None:
    told, clock, said = lines()
    told.hear("loading pugc/tiny with vllm: about 10 s")
    told.tick()
    clock.now += 9
    told.tick()
    assert said == ["loading pugc/tiny with vllm: about 10 s"]
    clock.now += 2.6
    told.tick()
    assert said[1:] == ["loading pugc/tiny with vllm: about 10 s (12 s so far)"]
    told.hear("")
    told.show(Progress("tiny rewards", 0, 1120, "0 asked, 0 from ledger"))
    told.tick()
    assert said[2:] == ["tiny rewards: 0 of 1,120 votes (0 asked, 0 from ledger)"]
    for done in range(1, 561):  # 28 a second: a line when ten seconds have passed, though there is always news
        clock.now += 1 / 28
        told.show(Progress("tiny rewards", done, 1120, f"{done} asked"))
        told.tick()
    assert said[3:] == [
        "tiny rewards: 280 of 1,120 votes (about 30 s left, 280 asked)",
        "tiny rewards: 560 of 1,120 votes (about 20 s left, 560 asked)",
    ]
    clock.now += 20
    told.show(Progress("tiny rewards", 1120, 1120, "1,120 asked"))
    told.show(Progress("tiny rewards", 1120, 1120, "1,120 asked, 5 from ledger"))
    told.show(Progress("tiny policy/dpo", 1, 9))
    assert said[5:] == ["tiny rewards: 1,120 votes (in 40 s, 1,120 asked, 5 from ledger)"]


def test_there_are_never_more_than_ten_seconds_of_silence() -> None:
    told, clock, said = lines()
    told.show(Progress("tiny responses", 0, 148))
    at = [clock.now]
    for _ in range(120):  # the first answer takes a minute
        clock.now += 0.5
        before = len(said)
        told.tick()
        at += [clock.now] * (len(said) - before)
    assert max(b - a for a, b in itertools.pairwise(at)) <= bars.QUIET
    assert set(said) == {"tiny responses: 0 of 148 answers"}


def test_a_stage_that_ends_is_told_once_and_soon() -> None:
    told, clock, said = lines()
    for total in (20, 40, 62):  # shard by shard, all of it from the ledger
        told.show(Progress("tiny quality", total, total))
        told.tick()
    clock.now += 1
    told.tick()
    told.tick()
    assert said == ["tiny quality: 62 scores (in 1 s)"]


def test_bars_have_a_spinner_for_what_cannot_be_counted() -> None:
    out = io.StringIO()
    shown = bars._Bars(Console(file=out, width=100, force_terminal=False))
    with shown.shown():
        progress.say("loading \x1b[2Jpugc/tiny: about 10 s")
        assert [task.description for task in shown._words.tasks] == ["loading pugc/tiny: about 10 s"]
        tell = progress.Reporter("tiny rewards")
        tell(4, 4)
        assert shown._words.tasks == []
        (task,) = shown._bars.tasks
        assert (task.description, task.completed, task.total) == ("rewards: votes", 4, 4)
        tell(4, 4, "more is known")
        shown._show(Progress("tiny rewards", 4, 8))
        assert task.finished_time is None, "its clock goes on"
        shown._known["tiny rewards"] = task.id, bars.Pace(time.monotonic() - 4, 0)
        shown._show(Progress("tiny rewards", 4, 8))
        assert task.fields["left"] == "about 4 s left"
        progress.say("loading")
        assert task.fields["left"] == ""
    assert "rewards: votes" in out.getvalue()
    with progress.listen(lambda state: None):
        progress.say("heard by nobody")


def test_bars_move_while_dagster_has_standard_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its descriptor leads into a file then, and back when the step is over."""
    for terminal in (True, False):
        ours, theirs = pty.openpty() if terminal else os.pipe()
        log = os.open(tmp_path / "step.err", os.O_WRONLY | os.O_CREAT)
        with os.fdopen(theirs, "w") as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            with bars.bars():
                before = os.dup(theirs)
                os.dup2(log, theirs)
                progress.Reporter("tiny rewards")(5, 5, "of the ledger")
                seen = ""
                while "votes" not in seen and select.select([ours], [], [], 20)[0]:
                    seen += os.read(ours, 1 << 16).decode()
                os.dup2(before, theirs)
                os.close(before)
            monkeypatch.undo()
        os.close(log)
        os.close(ours)
        assert "votes" in seen
        assert ("\x1b" in seen) == terminal
        assert (tmp_path / "step.err").read_bytes() == b""


def test_models_are_said_to_be_loaded_but_for_those_that_need_no_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pugc_core.engines import worker

    monkeypatch.setattr(worker, "WorkerEngine", lambda spec, kind: ScriptedEngine())
    folder = tmp_path / "policies" / "dpo"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"0" * 9)
    heard: list[str] = []
    with progress.listen(lambda state: None, heard.append), EngineHost() as host:
        for spec in (
            ModelSpec(id="pugc/tiny", engine="transformers"),
            ModelSpec(id=str(folder), engine="transformers"),
            ModelSpec(id="org/large", engine="transformers"),
            ModelSpec(id="org/large", base_urls=("http://gpu:8000/v1",)),
            ModelSpec(id="x", engine="scripted"),
        ):
            host.engine(spec)
            host.engine(spec)  # is there already
    assert [text for text in heard if text] == [
        "loading pugc/tiny with transformers: about 10 s",
        "loading policies/dpo with transformers: about 10 s",
        "loading org/large with transformers: minutes, where it is large",
    ]
    assert heard[1::2] == [""] * 3, "and when it is loaded"
