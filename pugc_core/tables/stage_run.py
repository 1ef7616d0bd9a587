"""One stage over many shards: reuse what is current, make the rest in one pass, hand each table out when it is done.

No error of one shard stops another's. A shard that cannot be made gets an empty table whose footer says why, so that
the stages after it have something to go on with: empty tables of their own. It is tried again at every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import polars as pl

from pugc_core.engines.base import Engine
from pugc_core.errors import PugcError, StorageError, as_pugc_error
from pugc_core.ledger.dispatch import Calls, answer
from pugc_core.ledger.store import Ledger
from pugc_core.stages.base import Build, Stage
from pugc_core.stages.records import ALL
from pugc_core.stages.rewards import REFERENCE
from pugc_core.tables.references import References, wanted
from pugc_core.tables.store import Footer, Loaded, Tables, failed_footer, file_hash, make_footer


class Made(NamedTuple):
    """A shard's table, its footer and the calls it took. `frame` is None when the table on disk is already it. Of a
    shard that failed, the table is empty and the footer says why."""

    shard: str
    frame: pl.DataFrame | None
    footer: Footer
    calls: Calls


Inputs = Mapping[str, Mapping[str, Loaded]]
"""Tables by stage name and shard."""


class StageRun:
    """One run of `stage`, for the node of a name, over `shards` of the recipe that `tables` are of.

    `inputs` are the tables it reads; stage `ugc` reads its shard's source file, which `path_of` finds; its content hash
    is taken from `source_hashes` where it is known. `context` is the context of the stage's model in tokens, 0 where it
    is not known: answers that a smaller one cut are asked for again. `references` give other posts to a stage that
    shows them (over all tables `ugc`, unless given). `besides` are the hashes of what tables are made of that is not a
    table. Iterating yields each shard as soon as it is finished, those that failed too; `failed` has their errors. A
    shard whose input tables are not there, or do not fit together, is in
    `failed` and keeps the table that it has; only where no shard has its inputs does this raise. An error of the
    engine, of the ledger or of the whole data set raises too.
    """

    def __init__(
        self,
        stage: Stage,
        name: str,
        shards: Iterable[str],
        inputs: Inputs,
        *,
        tables: Tables,
        ledger: Ledger,
        engine: Callable[[], Engine],
        path_of: Callable[[str], str],
        source_hashes: Mapping[str, str] | None = None,
        context: int = 0,
        progress: Callable[[int, int, str], None] | None = None,
        references: References | None = None,
        besides: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.stage = stage
        self.name = name
        self._besides = dict(besides)
        self.calls = Calls()
        self.failed: dict[str, PugcError] = {}
        self._shards = list(shards)
        self._inputs = inputs
        self._tables = tables
        self._ledger = ledger
        self._engine = engine
        self._path_of = path_of
        self._source_hashes = source_hashes or {}
        self._context = context
        self._progress = progress
        self._references = references or References(tables)

    def __iter__(self) -> Iterator[Made]:
        self._ledger.refresh()
        stale: dict[str, dict[str, str]] = {}
        for shard in self._shards:
            try:
                hashes = self._hashes(shard)
            except Exception as err:
                self.failed[shard] = as_pugc_error(err)
                if not self.stage.inputs:  # the file itself cannot be read
                    yield self._failed(shard, {"source": ""}, Calls())
                continue
            footer = self._current(shard)
            if footer is not None and footer.made_from(self.stage.fingerprint, hashes):
                yield Made(shard, None, footer, Calls())
            else:
                stale[shard] = hashes
        if len(self.failed) == len(self._shards) and self.failed and self.stage.inputs:
            raise _failure(self.name, self.failed)
        builds = ((shard, self._build(shard)) for shard in stale)
        answers = answer(builds, self._ledger, self._engine, context=self._context, progress=self._progress)
        for shard, result, calls in answers:
            self.calls.add(calls)
            try:
                if isinstance(result, PugcError):
                    raise result
                footer = make_footer(result, self.name, shard, self.stage.fingerprint, stale[shard])
                made = Made(shard, result, footer, calls)
            except Exception as err:
                self.failed[shard] = as_pugc_error(err)
                if shard == ALL:
                    raise
                if isinstance(result, StorageError) and self._current(shard) is not None:
                    continue  # what cannot be read now may be readable next time: the table that is there stays
                made = self._failed(shard, stale[shard], calls)
            yield made

    def _failed(self, shard: str, hashes: Mapping[str, str], calls: Calls) -> Made:
        """The empty table of a shard that failed, unless it is there already."""
        why = self.failed[shard].line
        footer = failed_footer(self.name, shard, self.stage.fingerprint, hashes, why)
        frame = None if self._current(shard) == footer else self.stage.table.frame([])
        return Made(shard, frame, footer, calls)

    def _current(self, shard: str) -> Footer | None:
        try:
            return self._tables.footer(self.name, shard)
        except StorageError:  # damaged: it is made again
            return None

    def _hashes(self, shard: str) -> dict[str, str]:
        if not self.stage.inputs:
            return {"source": self._source_hashes.get(shard) or file_hash(self._path_of(shard))}
        if shard == ALL:
            return {
                f"{name}/{each}": loaded.footer.content
                for name in self.stage.inputs
                for each, loaded in sorted(self._inputs[name].items())
            }
        footers = {name: self._inputs[name][shard].footer for name in self.stage.inputs}
        for name, footer in footers.items():
            for earlier, content in footer.inputs.items():
                # Joined with another table than it was made from, rows would go missing without a word.
                if earlier in footers and footers[earlier].content != content:
                    raise StorageError(
                        f"{name} of shard {shard} was made from an older {earlier}",
                        fix=f"pugc run --recipe {self._tables.recipe} --shard {shard} --to {self.name}",
                    )
        hashes = {name: footer.content for name, footer in footers.items()}
        return hashes | self._besides | ({REFERENCE: self._references.state(shard)} if wanted(self.stage) else {})

    def _build(self, shard: str) -> Build:
        # A generator, so that a shard's tables are read when its turn comes and not before.
        if shard == ALL:
            for name in self.stage.inputs:
                if not self._inputs[name]:
                    table, _, other = name.partition("@")  # another recipe's, where several are merged
                    recipe = other or self._tables.recipe
                    raise StorageError(
                        f"no shard of recipe {recipe} has a table {table} yet",
                        fix=f"pugc run --recipe {recipe} --to {table}",
                    )
            frames = {
                name: pl.concat(
                    [t.frame().with_columns(shard=pl.lit(s)) for s, t in sorted(self._inputs[name].items())]
                )
                for name in self.stage.inputs
            }
        else:
            frames = {name: self._inputs[name][shard].frame() for name in self.stage.inputs}
            if wanted(self.stage):
                frames[REFERENCE] = self._references.table(shard)
        return (yield from self.stage.build(shard, frames))


def _failure(stage: str, failed: Mapping[str, PugcError]) -> PugcError:
    shard, first = next(iter(failed.items()))
    if len(failed) == 1:
        return first
    return type(first)(f"{stage}: none of {len(failed)} shards can be made; {shard}: {first.problem}", fix=first.fix)
