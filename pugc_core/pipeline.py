"""One stage over many shards: reuse what is current, make the rest in one pass, hand each table out when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import polars as pl

from pugc_core.dispatch import Calls, answer
from pugc_core.engines.base import Engine
from pugc_core.errors import PugcError, StorageError
from pugc_core.ledger import Ledger
from pugc_core.stages.base import Build, Stage
from pugc_core.stages.dataset import ALL
from pugc_core.tables import Footer, Loaded, Store, file_hash, make_footer


class Made(NamedTuple):
    """A shard's table, its footer and the calls it took. `frame` is None when the table on disk is already it."""

    shard: str
    frame: pl.DataFrame | None
    footer: Footer
    calls: Calls


Inputs = Mapping[str, Mapping[str, Loaded]]
"""Tables by stage name and shard."""


class Pass:
    """One pass of `stage` over `shards` for the recipe named `recipe`.

    `inputs` are the tables it reads; stage `ugc` reads its shard's source file, which `path_of` finds; its content hash
    is taken from `source_hashes` where it is known. `context` is the context of the stage's model in tokens, 0 where it
    is not known: answers that a smaller one cut are asked for again. Iterating
    yields each shard as soon as it is finished. A shard that fails does not stop the others; when all are through,
    one error tells of those that failed.
    """

    def __init__(
        self,
        stage: Stage,
        recipe: str,
        shards: Iterable[str],
        inputs: Inputs,
        *,
        store: Store,
        ledger: Ledger,
        engine: Callable[[], Engine],
        path_of: Callable[[str], str],
        source_hashes: Mapping[str, str] | None = None,
        context: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.stage = stage
        self.calls = Calls()
        self._recipe = recipe
        self._shards = list(shards)
        self._inputs = inputs
        self._store = store
        self._ledger = ledger
        self._engine = engine
        self._path_of = path_of
        self._source_hashes = source_hashes or {}
        self._context = context
        self._progress = progress

    def __iter__(self) -> Iterator[Made]:
        self._ledger.refresh()
        failed: dict[str, PugcError] = {}
        stale: dict[str, dict[str, str]] = {}
        for shard in self._shards:
            try:
                hashes = self._hashes(shard)
            except PugcError as err:
                failed[shard] = err
                continue
            footer = self._current(shard)
            if footer is not None and footer.made_from(self.stage.fingerprint, hashes):
                yield Made(shard, None, footer, Calls())
            else:
                stale[shard] = hashes
        builds = ((shard, self._build(shard)) for shard in stale)
        answers = answer(builds, self._ledger, self._engine, context=self._context, progress=self._progress)
        for shard, result, calls in answers:
            self.calls.add(calls)
            if isinstance(result, PugcError):
                failed[shard] = result
                continue
            try:
                footer = make_footer(result, self.stage.name, shard, self.stage.fingerprint, stale[shard])
            except PugcError as err:
                failed[shard] = err
                continue
            yield Made(shard, result, footer, calls)
        if failed:
            raise _failure(self.stage.name, failed, len(self._shards))

    def _current(self, shard: str) -> Footer | None:
        try:
            return self._store.footer(self._recipe, self.stage.name, shard)
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
                        fix=f"pugc run --recipe {self._recipe} --shard {shard} --to {self.stage.name}",
                    )
        return {name: footer.content for name, footer in footers.items()}

    def _build(self, shard: str) -> Build:
        # A generator, so that a shard's tables are read when its turn comes and not before.
        if shard == ALL:
            for name in self.stage.inputs:
                if not self._inputs[name]:
                    raise StorageError(
                        f"no shard of recipe {self._recipe} has a table {name} yet",
                        fix=f"pugc run --recipe {self._recipe} --to {name}",
                    )
            frames = {
                name: pl.concat(
                    [t.frame().with_columns(shard=pl.lit(s)) for s, t in sorted(self._inputs[name].items())]
                )
                for name in self.stage.inputs
            }
        else:
            frames = {name: self._inputs[name][shard].frame() for name in self.stage.inputs}
        return (yield from self.stage.build(shard, frames))


def _failure(stage: str, failed: Mapping[str, PugcError], total: int) -> PugcError:
    shard, first = next(iter(failed.items()))
    if total == 1:
        return first
    others = f" (also: {', '.join(list(failed)[1:6])})" if len(failed) > 1 else ""
    return type(first)(
        f"{stage}: {len(failed)} of {total} shards failed, the others are done; {shard}: {first.problem}{others}",
        fix=first.fix,
    )
