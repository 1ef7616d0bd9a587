"""`pugc sample` and `pugc chat`: start and trained side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pugc_core import progress
from pugc_core.engines import EngineHost
from pugc_core.engines.base import Generation
from pugc_core.engines.pins import pinned
from pugc_core.errors import EngineError
from pugc_core.plan import Chain
from pugc_core.prompts.responses import parse
from pugc_core.results.policy_samples import START, Side, Talk, sides
from pugc_dagster.terminal.safe_text import echo, plain

Answers = Mapping[str, Sequence[Generation]]


def sample(chain: Chain, question: str, names: Sequence[str], draws: int, *, as_json: bool) -> None:
    """Ask once, and print the answers of every side."""
    chosen = _chosen(chain, names)
    with EngineHost() as host, _waiting():
        answers = _talk(chain, chosen, host).ask(question, draws)
    if as_json:
        shown = {name: [_as_json(each) for each in given] for name, given in answers.items()}
        click.echo(json.dumps({"recipe": chain.name, "question": question, "answers": shown}, indent=2))
    else:
        _print(answers)


def chat(chain: Chain, names: Sequence[str]) -> None:
    """Ask again and again; each side remembers what it said. An empty line or the end of the input is the end."""
    chosen = _chosen(chain, names)
    people = sys.stdin.isatty()
    if people:
        echo(f"{' | '.join(side.name for side in chosen)}: an empty line ends, /new begins anew", err=True, dim=True)
    with EngineHost() as host:
        talk = _talk(chain, chosen, host)
        while (line := _line(people)) is not None:
            if line == "/new":
                talk = _talk(chain, chosen, host)
                continue
            try:
                with _waiting():
                    answers = talk.ask(line)
            except EngineError as err:
                if not people:
                    raise
                echo(f"{err.problem}; {err.fix}", err=True, fg="red")
                continue
            _print(answers)


def _chosen(chain: Chain, names: Sequence[str]) -> list[Side]:
    chosen = sides(chain, names)
    if [side.name for side in chosen] == [START] and not names and chain.recipe.training.objectives:
        echo(f"no policy of recipe {chain.name} is trained yet (pugc run --recipe {chain.name})", err=True, dim=True)
    return chosen


def _talk(chain: Chain, chosen: Sequence[Side], host: EngineHost) -> Talk:
    pinned_sides = [Side(side.name, pinned(side.model, chain.workspace.ledger)) for side in chosen]
    return Talk(chain, pinned_sides, host)


@contextmanager
def _waiting() -> Iterator[None]:
    """Something that moves in the terminal while models are loaded and asked, below what is said meanwhile."""
    console = Console(stderr=True)

    def hear(sentence: str) -> None:
        if sentence:  # else what was said is over
            console.print(Text(plain(sentence)))

    with console.status("asking"), progress.listen(lambda state: None, hear):
        yield


def _line(people: bool) -> str | None:
    """The next question; None at the end."""
    try:
        line = input("> " if people else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None
    return line or None


def _as_json(answer: Generation) -> dict[str, object]:
    return {"text": parse(answer.text), "tokens": answer.completion_tokens, "finish_reason": answer.finish_reason}


def _print(answers: Answers) -> None:
    """Columns in a terminal; one under the other where the output goes to a file or a pipe."""
    if not sys.stdout.isatty():
        for name, given in answers.items():
            for number, answer in enumerate(given, 1):
                echo(f"## {name}{f' {number}' if len(given) > 1 else ''}\n{_words(answer)}\n")
        return
    table = Table(show_lines=True, expand=True)
    for name in answers:
        table.add_column(name, ratio=1)
    for row in zip(*answers.values(), strict=True):
        table.add_row(*(Text(_words(answer)) for answer in row))
    Console(highlight=False).print(table)


def _words(answer: Generation) -> str:
    cut = " [cut off]" if answer.cut_off else ""
    return f"{plain(parse(answer.text))}{cut}" or "(nothing)"
