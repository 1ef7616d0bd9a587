"""What a stage is: it states its requests, is handed the answers, and returns a table.

A stage's `build` is a generator over one shard: it yields the requests it needs next, receives their answers, may
ask again (extra votes), and returns the shard's table. It never sees an engine or the ledger; who answers is not its
business, and with the ledger underneath the table is a pure function of the input tables and the answers.

One class per stage says everything about it: its table and knobs, what it reads and asks, what is measured, checked
and shown. `Asking` is a stage that asks a model, `Filter` one that asks it once about every row and keeps or drops it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import polars as pl

from pugc_core.config import Config, digest
from pugc_core.engines.base import Generation, Refusal, Request, Sampling
from pugc_core.prompts import base as prompts
from pugc_core.stages.measures import Measures
from pugc_core.stages.records import Table


class Answers:
    """The answers to one batch of requests, looked up by request; generations and refusals are by the draw's key."""

    def __init__(self, generations: Mapping[bytes, Generation], refusals: Mapping[bytes, Refusal]) -> None:
        self._generations = generations
        self._refusals = refusals

    def of(self, request: Request) -> list[Generation]:
        """The generations that came of its draws, in draw order; empty when the engine refused the request."""
        return [generation for _, generation, _ in self.by_draw(request) if generation]

    def by_draw(self, request: Request) -> list[tuple[int, Generation | None, str | None]]:
        """Each draw with its generation or, where none came, with None and the reason."""
        found = []
        for draw in request.draws:
            key = request.key(draw)
            generation = self._generations.get(key)
            found.append((draw, generation, None if generation else self._refusals[key].reason))
        return found

    def refused(self, request: Request) -> str | None:
        """The reason when nothing came of the request."""
        reasons = [reason for _, _, reason in self.by_draw(request)]
        return reasons[0] if reasons and None not in reasons else None


Build = Generator[Sequence[Request], Answers, pl.DataFrame]
Inputs = Mapping[str, pl.DataFrame]
"""The tables that a stage reads, by the name of the stage that made them."""
Source = tuple[str, str]
"""A column of another table: (stage, column)."""
Sources = Mapping[str, Sequence[Source]]
"""By column of a table, those that it comes from."""


class Dropped(NamedTuple):
    """Where the text of a stage's dropped rows stands: in its own table, or in another's under the same id."""

    text: str
    table: str = ""
    by: str = ""
    note: str = ""
    """A column of its own that says more."""


@dataclass(frozen=True)
class Stage(ABC):
    """One stage of the pipeline for one recipe."""

    name: ClassVar[str]
    table: ClassVar[Table]
    sentence: ClassVar[str]
    """What it is, in the users' words; the web UI shows it. May have {knobs} of the stage's config."""
    after: ClassVar[str | None] = None
    """The stage whose kept rows it goes through, as far as the filters on them that stand before it keep them too."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Further tables that it looks things up in."""
    filters: ClassVar[bool] = False
    """Whether it says of every row of the stage it comes `after` whether it is kept."""
    row_for_row: ClassVar[bool] = False
    """Whether it has a row for every row that it goes through."""
    sharded: ClassVar[bool] = True
    """Whether it has one table per shard, or one over all."""
    role: ClassVar[str | None] = None
    """The role whose model it asks; None when it asks none."""
    unit: ClassVar[str] = ""
    """What it asks for, in the plural, as progress bars count it."""
    checks: ClassVar[tuple[str, ...]] = ()
    """Checks of its own, besides those that every table has (`pugc_core.tables.checks`)."""
    quantity: ClassVar[str] = ""
    """What is measured of its rows: the name of sums in `measure`."""
    sample: ClassVar[tuple[str, ...]] = ()
    """The columns that are shown of a few rows."""
    sources: ClassVar[Sources] = {}
    """Which column comes from which, for the web UI."""
    dropped: ClassVar[Dropped]
    format: ClassVar[int] = 2
    """Of its measures. Raise it when one is added: tables with another one are made again, at no call."""
    config: Any
    gates: tuple[str, ...] = field(default=(), kw_only=True)
    """The filters on the rows that it goes through, in run order (`gated`)."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tables it reads."""
        return (*([self.after] if self.after else []), *self.gates, *self.reads)

    @property
    @abstractmethod
    def fingerprint(self) -> Mapping[str, str]:
        """What shapes its table besides its inputs, part by part, so that a difference can be named."""

    @abstractmethod
    def build(self, shard: str, inputs: Inputs) -> Build:
        """The shard's table, by way of requests."""

    @staticmethod
    def measure(frame: pl.DataFrame) -> Measures:
        """Sums over a table's rows, kept in its footer (`pugc_core.stages.measures`)."""
        return {}

    @staticmethod
    def unread() -> pl.Expr:
        """Which rows have an answer that could not be read."""
        return pl.col("drop_reason") == "unparsable"

    @property
    def about(self) -> str:
        """The sentence, with its knobs filled in."""
        return self.sentence.format_map(dict(self.config))

    @property
    def skipped(self) -> bool:
        """Whether the recipe leaves it out."""
        return False

    def rows_in(self, inputs: Inputs) -> pl.DataFrame:
        """The rows that it goes through: those kept by the stage before it and by the filters on that, in order."""
        assert self.after is not None
        frame = inputs[self.after].filter("keep")
        for gate in self.gates:
            kept = inputs[gate].filter("keep")
            key = next(name for name in kept.columns if name in frame.columns)
            frame = frame.join(kept.select(key), on=key, how="semi", maintain_order="left")
        return frame


@dataclass(frozen=True)
class Asking(Stage):
    """A stage that asks a model about every row: `rows` has a column for every slot of its prompt."""

    config: Any
    model: str
    context: int | None = None
    """The recipe's limit to the model's context; with another, other prompts are too long."""
    asked: str | None = field(default=None, kw_only=True)
    """The identity of the model in requests, where `model` only says where it will come from: it is being trained."""

    version: ClassVar[str] = "2"
    """Of the code that makes a table of the answers."""
    contract: ClassVar[ModuleType]
    """The module of its prompt: WORDINGS, SLOTS, PARSER_VERSION and perhaps MARKERS."""

    @functools.cached_property
    def prompt(self) -> prompts.Prompt:
        contract: Any = self.contract
        markers = getattr(contract, "MARKERS", ())
        return prompts.load(self.config.prompt, contract.WORDINGS, slots=self.slots, markers=markers)

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that the prompt must have, and no others."""
        slots: tuple[str, ...] = self.contract.SLOTS
        return slots

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {
            "version": self.version,
            "prompt": self.prompt.fingerprint,
            "parser": str(self.contract.PARSER_VERSION),
            "model": self.model,
            "context": str(self.context),
            "sampling": digest(self.sampling.canonical),
            **self.knobs,
        }

    @property
    def knobs(self) -> Mapping[str, str]:
        """Parts of the fingerprint that only this stage has."""
        return {}

    @property
    def sampling(self) -> Sampling:
        """How its answers are drawn."""
        sampling: Sampling = self.config.sampling
        return sampling

    @abstractmethod
    def rows(self, inputs: Inputs) -> pl.DataFrame:
        """What is asked about, in order: ids, and a column for every slot of the prompt."""

    @property
    def draws(self) -> tuple[int, ...]:
        """The draws that are made of every row's request, to begin with."""
        return (0,)

    def request(self, row: Mapping[str, Any], draws: Sequence[int] | None = None) -> Request:
        """What is asked about a row of `rows`."""
        messages = self.prompt.render({slot: row[slot] for slot in self.prompt.slots})
        chosen = self.draws if draws is None else tuple(draws)
        return Request(self.asked or self.model, messages, self.sampling, chosen)

    def requests(self, inputs: Inputs) -> Iterator[tuple[Mapping[str, Any], Request]]:
        """Every row with its request."""
        for row in self.rows(inputs).iter_rows(named=True):
            yield row, self.request(row)


class FilterConfig(Config):
    """What every filter has."""

    skip: bool = False
    """Leave the filter out: all rows that come to it go on, and its model is not asked."""


@dataclass(frozen=True)
class Filter(Asking):
    """A stage that asks one question about every row it goes through, and keeps or drops the row by the answer."""

    filters = True
    row_for_row = True
    checks = ("parse_rate",)
    config: FilterConfig

    @property
    def skipped(self) -> bool:
        return self.config.skip

    @abstractmethod
    def verdict(self, answer: Generation | None) -> tuple[Mapping[str, Any], str | None]:
        """The columns of a row besides its id, and why it is dropped; None for a row that is kept. Of an answer that
        never came, the columns."""

    def build(self, shard: str, inputs: Inputs) -> Build:
        asked = list(self.requests(inputs))
        answers = yield [request for _, request in asked]
        made = []
        for row, request in asked:
            answer = next(iter(answers.of(request)), None)
            columns, reason = self.verdict(answer)
            if answer is None:
                reason = answers.refused(request)
            made.append({self.table.key: row[self.table.key], **columns, "keep": reason is None, "drop_reason": reason})
        return self.table.frame(made)


def gated(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages by name, in run order, without those that the recipe leaves out. Each goes through the filters that
    stand before it and judge the rows that it takes."""
    found: dict[str, Stage] = {}
    for stage in stages:
        if not stage.skipped:
            gates = tuple(name for name, other in found.items() if other.filters and other.after == stage.after)
            found[stage.name] = replace(stage, gates=gates)
    return found
