"""Drive a stage's `build` by hand: requests out, hand-made answers in, no engine and no ledger."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pugc_core.engines.base import Generation, Refusal, Request
from pugc_core.prompts.base import neutralise
from pugc_core.stages import STAGES, records
from pugc_core.stages.base import Answers, Stage
from pugc_core.stages.records import Counts, Table

Script = Callable[[Request, int], str | Refusal]

DEFAULTS: Mapping[str, Any] = {"keep": True, "drop_reason": None}


@dataclass
class Run:
    """What a build returned, and the batches of requests it made on the way."""

    table: pl.DataFrame
    rounds: list[list[Request]] = field(default_factory=list)
    counts: Counts = records.NOTHING

    @property
    def requests(self) -> list[Request]:
        return [request for batch in self.rounds for request in batch]

    def rows(self, *columns: str) -> list[Any]:
        """The rows of these columns: tuples, or plain values of a single column."""
        rows = list(self.table.select(columns or self.table.columns).iter_rows())
        return [row[0] for row in rows] if len(columns) == 1 else rows


def refuse(request: Request, reason: str = "prompt_too_long") -> Refusal:
    return Refusal(request, reason)


def by_text(answers: Mapping[str, str | Sequence[str] | None]) -> Script:
    """Answers by a piece of text that stands in the prompt, so that no test depends on the order of requests.

    A sequence holds one answer per draw; None refuses the request. No key, or several, fails the test.
    """

    def script(request: Request, draw: int) -> str | Refusal:
        found = [key for key in answers if neutralise(key) in request.messages[-1].content]
        assert len(found) == 1, f"{len(found)} answers fit {request.messages[-1].content!r}"
        answer = answers[found[0]]
        if answer is None:
            return refuse(request)
        return answer if isinstance(answer, str) else answer[draw]

    return script


def drive(
    stage: Stage,
    answers: Mapping[str, str | Sequence[str] | None] | Script,
    *,
    finish: Callable[[str], str] = lambda text: "stop",
    shard: str = "a",
    **inputs: pl.DataFrame,
) -> Run:
    """Run `stage.build` to its end; the table has passed its schema's own check, counts included."""
    script = answers if callable(answers) else by_text(answers)
    build = stage.build(shard, inputs)
    run = Run(pl.DataFrame())
    given: Answers | None = None
    while True:
        try:
            batch = list(build.send(given))  # type: ignore[arg-type]
        except StopIteration as end:
            run.table = end.value
            break
        run.rounds.append(batch)
        assert len(run.rounds) < 100, "the stage asks for ever"
        given = _answer(batch, script, finish)
    stage.table.check(run.table)
    run.counts = stage.table.count(run.table)
    assert run.counts.rows_in == run.counts.kept + sum(run.counts.dropped.values())
    return run


def _answer(batch: Sequence[Request], script: Script, finish: Callable[[str], str]) -> Answers:
    generations: dict[bytes, Generation] = {}
    refusals: dict[bytes, Refusal] = {}
    for request in batch:
        for draw in request.draws:
            text, key = script(request, draw), request.key(draw)
            if isinstance(text, Refusal):
                refusals[key] = text
                continue
            generations[key] = Generation(key, text, finish(text), 7, len(text.split()), request.seed(draw), "hand")
    return Answers(generations, refusals)


def table(schema: Table, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """A table whose rows name only what matters: the rest is null, and rows are kept unless they say why not."""
    filled = []
    for row in rows:
        assert row.keys() <= schema.columns.keys(), f"unknown columns: {row.keys() - schema.columns.keys()}"
        blank = dict.fromkeys(schema.columns) | DEFAULTS
        filled.append({**blank, **row, "keep": row.get("drop_reason") is None})
    return schema.frame(filled)


def ident(text: str) -> str:
    """An id such as the ugc stage gives: hexadecimal, from the text."""
    return records.make_id("test", text)


def posts(*texts: str, dropped: Iterable[str] = ()) -> pl.DataFrame:
    """A ugc table with these texts, and others that are dropped."""
    rows: list[dict[str, Any]] = [{"ugc_id": ident(t), "shard": "a", "text": t} for t in texts]
    rows += [{"ugc_id": ident(t), "shard": "a", "text": t, "drop_reason": "too_short"} for t in dropped]
    return table(STAGES["ugc"].table, rows)


def instructions(of: Mapping[str, str], dropped: Mapping[str, str] | None = None) -> pl.DataFrame:
    """An instructions table: {instruction: text of its post}; the id is that of the instruction."""
    rows: list[dict[str, Any]] = [
        {"instruction_id": ident(i), "ugc_id": ident(post), "draw": 0, "instruction": i} for i, post in of.items()
    ]
    for instruction, post in (dropped or {}).items():
        rows.append(
            {
                "instruction_id": ident(instruction),
                "ugc_id": ident(post),
                "draw": 0,
                "instruction": instruction,
                "drop_reason": "too_long",
            }
        )
    return table(STAGES["instructions"].table, rows)


def changed(before: Stage, after: Stage) -> set[str]:
    """Which parts of the fingerprint differ. It must be JSON of strings, as table footers hold it."""
    old, new = dict(before.fingerprint), dict(after.fingerprint)
    assert json.loads(json.dumps(old)) == old
    assert all(isinstance(value, str) for value in old.values())
    return {part for part in old.keys() | new.keys() if old.get(part) != new.get(part)}
