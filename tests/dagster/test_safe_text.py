"""Hostile texts and the terminal: nothing that it would obey gets through."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

import pugc_dagster
from pugc_core.errors import RecipeError
from pugc_dagster import cli
from pugc_dagster.terminal import console
from pugc_dagster.terminal.safe_text import Formatter, plain

HOSTILE = {
    "\x1b[31mred\x1b[0m": "red",
    "\x1b[2J\x1b[1;1Hgone": "gone",
    "\x1b[38;2;1;2;3mtrue\x1b[m": "true",
    "\x1b]0;title\x07after": "after",
    "\x1b]52;c;cm0gLXJm\x1b\\after": "after",  # the clipboard
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\": "click",
    "\x9b31mred": "red",
    "\x9d0;title\x9cafter": "after",
    "\x1bPq#0;2;0;0;0\x1b\\after": "after",
    "\x1b_G payload\x1b\\after": "after",
    "\x1bcreset \x1b(0 sets \x1b7 saves": "reset  sets  saves",
    "\x1b\x1b[31m[31mnested": "[31mnested",
    "\x1b]0;no end": "0;no end",
    "\x1b[": "",
    "over\rwritten\x08\x08\x07\x7f": "overwritten",
    "line\r\nbreak\ttab": "line\nbreak\ttab",
    "\u202egnp.exe\u2066x\u2069": "gnp.exex",
    "lone \ud800 surrogate": "lone  surrogate",
    "Grüße, 漢字, \u200cنمی\u200cخواهم, 👩\u200d👩": "Grüße, 漢字, \u200cنمی\u200cخواهم, 👩\u200d👩",
    "1 < 2 [bold]not markup[/]": "1 < 2 [bold]not markup[/]",
}


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    for text, wanted in HOSTILE.items():
        assert plain(text) == wanted, text
        assert plain(text * 3) == plain(plain(text * 3))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", plain("".join(map(chr, range(256))) * 2))


def test_it_takes_linear_time() -> None:
    begun = time.monotonic()
    for piece in ("\x1b]", "\x9d", "\x1b[", "\x1b[0;", "\x1b ", "\x1bP\x9d"):
        plain(piece * 200_000)
    assert time.monotonic() - begun < 20  # at once; by the square it would be hours


def test_panels_log_lines_and_errors_are_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    for text, wanted in HOSTILE.items():
        out = io.StringIO()
        monkeypatch.setattr(console, "_out", Console(file=out, highlight=False, width=200))
        console._panel(text, text, "blue")
        console._print_failed({"ugc": {"a": text}})
        record = logging.LogRecord("pugc", logging.WARNING, "", 0, "%s", (text,), None)
        out.write(Formatter("%(message)s").format(record))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", out.getvalue()), text
        assert wanted.split("\n")[0].split("\t")[0] in out.getvalue()

    def fails(name: str) -> None:
        raise RecipeError("a column \x1b[2J\x1b]0;pwned\x07 [bold]x[/]", fix="\x9b31mdo this")

    monkeypatch.setattr(cli, "_load", fails)
    with pytest.raises(SystemExit):
        cli.main(["status"], standalone_mode=False)
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x9b" not in said
    assert "[bold]x[/]" in said


def test_there_is_one_way_to_the_terminal() -> None:
    """Everything goes through `terminal`; JSON escapes what it has, and may go straight."""
    assert json.dumps("\x1b\x9b\u202e").isascii()
    for path in Path(pugc_dagster.__file__).parent.glob("*.py"):
        if path.name == "terminal.py":
            continue
        for call in re.findall(r"click\.s?echo\(.*|(?<![.\w])print\(.*", path.read_text()):
            assert call.startswith(("click.echo(json.dumps(", "click.echo(mark, ")), f"{path.name}: {call}"
