"""What a stage is: it states its requests, is handed the answers, and returns a table.

A stage's `build` is a generator over one shard: it yields the requests it needs next, receives their answers, may
ask again (extra votes), and returns the shard's table. It never sees an engine or the ledger; who answers is not its
business, and with the ledger underneath the table is a pure function of the input tables and the answers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

import polars as pl

from pugc_core.engines.base import Generation, Refusal, Request
from pugc_core.records import Table


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


class Stage(Protocol):
    """One stage of the pipeline for one recipe."""

    @property
    def name(self) -> str: ...

    @property
    def table(self) -> Table: ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tables it reads."""
        ...

    @property
    def role(self) -> str | None:
        """The role whose model it asks; None when it asks none."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What shapes its table besides its inputs, part by part, so that a difference can be named."""
        ...

    def build(self, shard: str, inputs: Mapping[str, pl.DataFrame]) -> Build:
        """The shard's table, by way of requests."""
        ...
