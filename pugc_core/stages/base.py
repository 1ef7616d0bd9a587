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
    """The answers to one batch of requests, looked up by request, in the order of its draws."""

    def __init__(self, generations: Mapping[bytes, Generation], refusals: Mapping[bytes, Refusal]) -> None:
        self._generations = generations
        self._refusals = refusals

    def of(self, request: Request) -> list[Generation]:
        """The generations of its draws, in draw order; empty when the engine refused the request."""
        if request.digest in self._refusals:
            return []
        return [self._generations[request.key(draw)] for draw in request.draws]

    def refused(self, request: Request) -> str | None:
        """The reason when the engine refused the request."""
        refusal = self._refusals.get(request.digest)
        return refusal.reason if refusal else None


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
