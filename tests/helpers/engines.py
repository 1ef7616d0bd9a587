"""Engines that finish in other orders than the scripted one, for tests that order must not matter to."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from pugc_core.engines.base import Answer, Generation, Refusal, Request, serve
from pugc_core.engines.scripted import Script, plausible


def generation(request: Request, draw: int, text: str | None = None) -> Generation:
    """One draw's answer, of which the script says the text unless it is given."""
    text = plausible(request, draw) if text is None else text
    # As the scripted engine counts, so that tables do not tell who answered.
    prompt_tokens = sum(len(m.content.split()) for m in request.messages)
    return Generation(
        request.key(draw), text, "stop", prompt_tokens, len(text.split()), request.seed(draw), "scripted 1"
    )


class AnyOrder:
    """Finishes single draws, of whichever request in hand, in an order that `seed` decides. As with a server, the
    draws of one request come back apart. `refuse` gives a reason for requests it will not answer."""

    name = "any order"

    def __init__(
        self, seed: int, script: Script = plausible, *, capacity: int = 16, refuse: Script | None = None
    ) -> None:
        self._random = random.Random(seed)
        self._script = script
        self._capacity = capacity
        self._refuse = refuse or (lambda request, draw: "")
        self._pending: list[tuple[Request, int]] = []
        self._left: dict[Request, int] = {}
        self.requests: list[Request] = []

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        self._pending.clear()
        self._left.clear()
        return serve(requests, capacity=self._capacity, add=self._add, step=self._step)

    def close(self) -> None: ...

    def _add(self, request: Request) -> Refusal | None:
        self.requests.append(request)
        if reason := self._refuse(request, request.draws[0]):
            return Refusal(request, reason)
        assert request not in self._left, "the same request is in hand twice"
        self._left[request] = len(request.draws)
        self._pending += [(request, draw) for draw in request.draws]
        return None

    def _step(self) -> Iterator[tuple[int, list[Generation]]]:
        request, draw = self._pending.pop(self._random.randrange(len(self._pending)))
        self._left[request] -= 1
        complete = self._left[request] == 0
        if complete:
            del self._left[request]
        yield int(complete), [generation(request, draw, self._script(request, draw))]
