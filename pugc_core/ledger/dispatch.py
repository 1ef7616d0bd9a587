"""One pass of a stage over all its shards: requests to the ledger first, to the engine for the rest, no barrier.

Each shard is a generator (see `stages.base`). `answer` keeps as many shards open as the engine has room for, hands
every answer to the shards that wait for it, writes it down, and gives each table out the moment its last answer is
in. A shard that asks again (extra votes) just joins the queue, ahead of shards that have not begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import polars as pl

from pugc_core.engines.base import Answer, Engine, Generation, Refusal, Request
from pugc_core.errors import EngineError, PugcError, as_pugc_error
from pugc_core.ledger.store import Ledger
from pugc_core.stages.base import Answers, Build

_OPEN_TABLES = 2
"""Finished tables that may wait while the engine takes requests in; beyond, its caller gets a turn first."""


@dataclass
class Calls:
    """What a stage asked for. A call is one draw: one answer of the model."""

    made: int = 0
    """answered by the engine"""
    from_ledger: int = 0
    """answered by the ledger"""
    refused: int = 0
    """requests that the engine would not answer, or not wholly"""
    prompt_tokens: int = 0
    """tokens prefilled; draws asked for together share their prompt and count it once"""
    completion_tokens: int = 0

    def add(self, other: Calls) -> None:
        """Count another's calls in."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Finished(NamedTuple):
    """A shard, its table or why it has none, and the calls it took."""

    shard: str
    result: pl.DataFrame | PugcError
    calls: Calls


@dataclass
class _Shard:
    name: str
    build: Build
    requests: Sequence[Request] = ()
    generations: dict[bytes, Generation] = field(default_factory=dict)
    refusals: dict[bytes, Refusal] = field(default_factory=dict)
    waiting: int = 0
    begun: bool = False
    calls: Calls = field(default_factory=Calls)


def answer(
    shards: Iterable[tuple[str, Build]],
    ledger: Ledger,
    engine: Callable[[], Engine],
    *,
    context: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[Finished]:
    """Run the shards' generators to their end and yield their tables as they finish, in no particular order.

    `engine` is called at most once, and only when the ledger lacks an answer. `progress` is told (draws answered,
    draws known to be needed, who answered them: "120 asked, 35 from ledger"). An answer of the ledger that a context
    smaller than `context` tokens cut is asked for again; 0 leaves it be. What the engine has answered is in the ledger
    even when this raises.
    """
    return _Dispatch(shards, ledger, progress or (lambda done, known, note: None), context).run(engine)


class _Dispatch:
    def __init__(
        self,
        shards: Iterable[tuple[str, Build]],
        ledger: Ledger,
        progress: Callable[[int, int, str], None],
        context: int = 0,
    ) -> None:
        self._context = context
        self._source = iter(shards)
        self._ledger = ledger
        self._progress = progress
        self._queue: deque[Request] = deque()
        self._finished: deque[Finished] = deque()
        # Who waits for which draw. Two rows, or two shards, may ask the same: the engine is asked once.
        self._waiting: dict[bytes, list[_Shard]] = {}
        self._asked: dict[bytes, Request] = {}
        self._known = 0
        self._from_ledger = 0
        self._answered = 0
        self._exhausted = False

    def run(self, engine: Callable[[], Engine]) -> Iterator[Finished]:
        while not self._queue and self._open_next():
            yield from self._drain()
        yield from self._drain()
        if not self._queue:
            return
        for result in engine().generate(self._feed()):
            if result is not None:
                self._take(result)
            yield from self._drain()
        yield from self._drain()
        if self._waiting or not self._exhausted:
            raise EngineError(f"the engine ended with {len(self._waiting)} draws unanswered", fix="report this engine")

    def _drain(self) -> Iterator[Finished]:
        # A table never outlives the answers that it was made of.
        if self._finished:
            self._ledger.flush()
        while self._finished:
            yield self._finished.popleft()

    def _feed(self) -> Iterator[Request | None]:
        while True:
            if self._queue:
                yield self._queue.popleft()
            elif len(self._finished) > _OPEN_TABLES or (self._exhausted and self._waiting):
                yield None
            elif not self._open_next():
                if not self._waiting:
                    return
                yield None

    def _open_next(self) -> bool:
        try:
            name, build = next(self._source)
        except StopIteration:
            self._exhausted = True
            return False
        self._advance(_Shard(name, build))
        return True

    def _advance(self, shard: _Shard) -> None:
        """Let a shard go on with its answers, as far as the ledger carries it."""
        while shard.waiting == 0:
            # A generator that has not begun takes no answers.
            answers = Answers(shard.generations, shard.refusals) if shard.begun else None
            shard.begun = True
            try:
                shard.requests = shard.build.send(answers)  # type: ignore[arg-type]
                wanted = {request.key(draw): request for request in shard.requests for draw in request.draws}
            except StopIteration as end:
                self._finished.append(Finished(shard.name, end.value, shard.calls))
                return
            except Exception as err:  # whatever it is, one bad shard does not stop the others
                self._finished.append(Finished(shard.name, as_pugc_error(err), shard.calls))
                return
            shard.generations, shard.refusals = {}, {}
            self._ask(shard, wanted)

    def _ask(self, shard: _Shard, wanted: Mapping[bytes, Request]) -> None:
        models = {request.model for request in shard.requests}
        for model in models:
            keys = [key for key, request in wanted.items() if request.model == model]
            found = self._ledger.find(model, keys)
            kept = {k: g for k, g in found.items() if not g.outgrown(wanted[k].sampling, self._context)}
            shard.generations.update(kept)
        shard.calls.from_ledger += len(shard.generations)
        self._from_ledger += len(shard.generations)
        self._known += len(shard.generations)
        for request in dict.fromkeys(shard.requests):
            missing = [d for d in request.draws if request.key(d) not in shard.generations]
            shard.waiting += len(missing)
            fresh = []
            for draw in missing:
                key = request.key(draw)
                if key not in self._waiting:
                    fresh.append(draw)
                self._waiting.setdefault(key, []).append(shard)
            self._known += len(fresh)
            # Servers refuse n > 1 for greedy answers, which would all be the same.
            for draws in _runs(fresh) if request.sampling.temperature else [(draw,) for draw in fresh]:
                asked = replace(request, draws=draws)
                self._asked.update((asked.key(draw), asked) for draw in draws)
                self._queue.append(asked)
        self._tell()

    def _take(self, result: Answer) -> None:
        if isinstance(result, Refusal):
            keys = [result.request.key(draw) for draw in result.request.draws]
        else:
            keys = [result.key]
        if any(key not in self._waiting for key in keys):
            raise EngineError(f"the engine answered a draw nobody asked for ({keys[0].hex()[:12]})")
        if isinstance(result, Generation) and self._context:
            result = replace(result, context=self._context)
        request = self._asked[keys[0]]
        calls = self._waiting[keys[0]][0].calls  # who asked first pays
        if isinstance(result, Refusal):
            calls.refused += 1
        else:
            self._ledger.add(request.model, [result])
            calls.made += 1
            calls.completion_tokens += result.completion_tokens
            if result.key == request.key(request.draws[0]):
                calls.prompt_tokens += result.prompt_tokens
        for key in keys:
            del self._asked[key]
            for shard in self._waiting.pop(key):
                if isinstance(result, Refusal):
                    shard.refusals[key] = result
                else:
                    shard.generations[key] = result
                shard.waiting -= 1
                if shard.waiting == 0:
                    self._advance(shard)
        self._answered += len(keys)
        self._tell()

    def _tell(self) -> None:
        note = f"{self._answered:,} asked, {self._from_ledger:,} from ledger"
        self._progress(self._answered + self._from_ledger, self._known, note)


def _runs(draws: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Consecutive stretches of ascending draws: what an engine can take as one request with n."""
    start = 0
    for i in range(1, len(draws) + 1):
        if i == len(draws) or draws[i] != draws[i - 1] + 1:
            yield tuple(draws[start:i])
            start = i
