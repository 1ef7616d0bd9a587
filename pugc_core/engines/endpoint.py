"""Any OpenAI-compatible chat server (vLLM, SGLang, llama.cpp, hosted) as an engine; several replicas count as one."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from pugc_core.engines import chat
from pugc_core.engines.base import Answer, Generation, Refusal, Request, serve
from pugc_core.engines.redaction import Secrets, authorization, credentials, without_credentials
from pugc_core.errors import EngineError, MissingDependency
from pugc_core.models import urls

T = TypeVar("T")
_TRIES_FOR_TEXT = 3
"""How often a server that answers without a text is asked for it."""
_SILENT = 8
"""Requests left without a text, and none answered with one, that make it the server's fault and not theirs."""


class _ChangedError(Exception):
    """The server refused a request for its form, which is another one now."""


@dataclass(slots=True, eq=False)
class _Replica:
    url: str
    headers: Mapping[str, str]
    without: set[str] = field(default_factory=set)
    """Fields that it does not know or take, left out where they are neutral."""
    outstanding: int = 0
    sent: int = 0
    rests_until: float = 0.0
    """A dead replica fails faster than any other answers: by load alone it would be sent every request first."""


class EndpointEngine:
    """Asks the servers at `base_urls` for chat completions of `model`, at most `max_in_flight` at a time.

    A URL without a path gets "/v1". Tries pause `backoff_s` at first, twice as long each time, and `Retry-After` on
    top. Draws are asked for together (`n`) until a server returns fewer than asked; `supports_n=False` never does so,
    for servers that give n times the same. `served_as` is the name by which the servers call the model, where it is
    another. `system_role` says whether the model's chat format has a place for system texts; None sends them until a
    server says that it has not. Keys and passwords stand in no error and no answer, also where a server gives them
    back. Connections live in a background thread, on an asyncio loop of their own.
    """

    name = "endpoint 1"

    def __init__(
        self,
        *,
        model: str,
        base_urls: Sequence[str],
        api_key: str | None = None,
        max_in_flight: int = 64,
        max_retries: int = 6,
        timeout_s: float = 600,
        supports_n: bool = True,
        backoff_s: float = 0.5,
        served_as: str | None = None,
        system_role: bool | None = None,
    ) -> None:
        try:
            import aiohttp  # noqa: F401
        except ImportError as err:
            raise MissingDependency("the endpoint engine needs aiohttp", fix='pip install -e ".[endpoint]"') from err
        if not base_urls or max_in_flight < 1:
            raise EngineError("no server or nothing in flight", fix="give base_urls, and max_in_flight of 1 or more")
        self._model = model
        self._names = (model, served_as) if served_as else (model,)
        self._replicas = [
            _Replica(_completions_url(url), authorization(api_key, credentials(url))) for url in base_urls
        ]
        self._secrets = Secrets(api_key, tuple(base_urls))
        self._system_role = system_role
        self._spoken = False
        self._silent = 0
        self._max_in_flight = max_in_flight
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        self._use_n = supports_n
        self._backoff_s = backoff_s
        self._thread: Thread | None = None

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Answer | None]:
        self._connect()
        done: SimpleQueue[Future[list[Answer]]] = SimpleQueue()
        out: set[Future[list[Answer]]] = set()

        def add(request: Request) -> None:
            if self._thread is None:
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
            out.add(future)
            future.add_done_callback(done.put)

        def step() -> Iterator[tuple[int, list[Answer]]]:
            # Only what is there now: a slow caller must get to add requests before all that are out have come back.
            for future in [done.get(), *(done.get() for _ in range(done.qsize()))]:
                out.discard(future)
                yield 1, future.result()

        try:
            # Twice what is in flight, so that a free slot need not wait for the caller's thread.
            yield from serve(requests, capacity=2 * self._max_in_flight, add=add, step=step)
        except CancelledError:
            raise EngineError("the engine was closed while requests were out", fix="close it last") from None
        finally:
            for future in out:
                future.cancel()

    def close(self) -> None:
        """Ends what is outstanding and hangs up. A later `generate` connects anew."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def _connect(self) -> None:
        if self._thread is None:
            ready: Future[None] = Future()
            self._thread = Thread(target=lambda: asyncio.run(self._hold(ready)), name="pugc-endpoint", daemon=True)
            self._thread.start()
            ready.result(timeout=60)

    async def _hold(self, ready: Future[None]) -> None:
        """Holds the connections until `close`."""
        from aiohttp import ClientSession, ClientTimeout, TCPConnector

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._slots = asyncio.Semaphore(self._max_in_flight)
        timeout = ClientTimeout(total=self._timeout_s, sock_connect=min(30, self._timeout_s))
        headers = {"Content-Type": "application/json"}
        # No limit in the connector: time spent waiting for it would count towards the timeout.
        async with ClientSession(headers=headers, timeout=timeout, connector=TCPConnector(limit=0)) as self._session:
            ready.set_result(None)
            await self._stop.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    async def _answer(self, request: Request) -> list[Answer]:
        # vLLM rejects n > 1 for greedy answers.
        runs = _runs(request.draws, together=self._use_n and request.sampling.temperature > 0)
        try:
            settled = [each for run in await _all([self._run(request, run) for run in runs]) for each in run]
        except chat.TooLongError:
            return [Refusal(request, "prompt_too_long")]
        came: list[Answer] = [each for each in settled if isinstance(each, Generation)]
        silences = [each for each in settled if isinstance(each, chat.NoTextError)]
        if not silences:
            return came
        self._silent += 1
        if self._silent >= _SILENT and not self._spoken:
            fix = "does the server run a chat model, and is max_tokens enough for its thoughts and an answer?"
            raise EngineError(f"no text in {self._silent} answers; the last: {silences[-1]}", fix=fix)
        keys = {each.key for each in came if isinstance(each, Generation)}
        missing = tuple(draw for draw in request.draws if request.key(draw) not in keys)
        return [*came, Refusal(replace(request, draws=missing), "no_content")]

    async def _run(self, request: Request, draws: Sequence[int]) -> list[Generation | chat.NoTextError]:
        """What becomes of each of `draws`, which are asked for together. One without a text takes none with it."""
        try:
            given = {g.key: g for g in await self._complete(request, draws)}
        except chat.NoTextError as err:
            return [err for _ in draws]
        return await _all([self._settle(request, draw, given.get(request.key(draw))) for draw in draws])

    async def _settle(
        self, request: Request, draw: int, generation: Generation | None
    ) -> Generation | chat.NoTextError:
        """`generation`, or a new answer where there is none or it breaks the constraint, which many servers ignore."""
        try:
            generation = generation or (await self._complete(request, [draw]))[0]
            for _ in range(3):
                if chat.obeys(generation.text, request.sampling):
                    break
                generation = (await self._complete(request, [draw]))[0]
        except chat.NoTextError as err:
            return generation or err
        return generation

    async def _complete(self, request: Request, draws: Sequence[int]) -> list[Generation]:
        """Generations for some of `draws`, at least one, after as many tries as it takes."""
        now = asyncio.get_running_loop().time
        failed: Counter[_Replica] = Counter()
        attempt = silent = 0
        while True:
            async with self._slots:
                replica = min(self._replicas, key=lambda r: (failed[r], r.rests_until > now(), r.outstanding, r.sent))
                try:
                    return await self._ask(replica, request, draws)
                except _ChangedError:
                    continue
                except chat.NoTextError:
                    silent += 1
                    if silent == _TRIES_FOR_TEXT:
                        raise
                    problem, retry_after = "an answer without text", 0.0
                except chat.TransientError as err:
                    problem, retry_after = err.args
            pause = min(retry_after + self._backoff_s * 2**attempt * random.uniform(0.5, 1.5), self._timeout_s)
            failed[replica] += 1
            replica.rests_until = now() + pause
            attempt += 1
            if attempt > self._max_retries:
                break
            await asyncio.sleep(pause)
        fix = "is the server running, and the base URL right? If it is only slow: lower max_in_flight, raise timeout_s"
        raise EngineError(f"no answer after {attempt} tries; the last, of {replica.url}: {problem}", fix=fix)

    async def _ask(self, replica: _Replica, request: Request, draws: Sequence[int]) -> list[Generation]:
        """One try. Raises _ChangedError where the server refuses the form, and another form is left."""
        body = self._body(replica, request, draws)
        status, retry_after, raw = await self._post(replica, orjson.dumps(body))
        if status != 200:
            said = self._secrets.hide(raw.decode(errors="replace"))
            self._adapt(replica, body, said)
            if self._body(replica, request, draws) != body:
                raise _ChangedError
            raise chat.fault(status, retry_after, said, self._model, replica.url)
        try:
            answers = chat.read(raw, request, draws, self.name, self._names)
        except chat.TransientError as err:
            said = self._secrets.hide(raw.decode(errors="replace"))
            raise chat.TransientError(f"{err.args[0]}: {said[:300]!r}", 0.0) from None
        except EngineError as err:
            hidden = (self._secrets.hide(words) for words in (err.problem, err.fix or ""))
            raise EngineError(f"{replica.url}: {next(hidden)}", fix=next(hidden)) from None
        self._spoken = True
        if len(answers) < len(draws):
            self._use_n = False
        hide = self._secrets.hide_in_answer
        return [replace(g, text=hide(g.text), finish_reason=hide(g.finish_reason)) for g in answers if g is not None]

    def _body(self, replica: _Replica, request: Request, draws: Sequence[int]) -> dict[str, Any]:
        fold = self._system_role is False
        return chat.payload(self._model, request, draws, fold=fold, without=replica.without)

    def _adapt(self, replica: _Replica, body: Mapping[str, Any], said: str) -> None:
        """Remember what a refusal says of the form: neutral fields that this server does not know; that the model, of
        all servers, has no place for a system text."""
        replica.without |= chat.unknown_fields(body, said)
        if self._system_role is None and chat.refuses_system(body, said):
            self._system_role = False

    async def _post(self, replica: _Replica, body: bytes) -> tuple[int, str, bytes]:
        """Status, Retry-After and body of the response."""
        from aiohttp import ClientError

        replica.outstanding += 1
        replica.sent += 1
        try:
            # A redirected POST would arrive as a GET.
            async with self._session.post(
                replica.url, data=body, headers=replica.headers, allow_redirects=False
            ) as response:
                raw = await response.read()
        except (ClientError, OSError) as err:  # A timeout is an OSError.
            raise chat.TransientError(self._secrets.hide(f"{type(err).__name__} {err}"), 0.0) from None
        finally:
            replica.outstanding -= 1
        if response.status == 200:
            replica.rests_until = 0.0
        return response.status, response.headers.get("Retry-After", ""), raw


def _completions_url(base_url: str) -> str:
    """Where completions are asked for, without the user and the password of the base URL."""
    if found := urls.fault(base_url):
        raise EngineError(f"no base URL: {found}", fix=urls.FIX)
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise EngineError(
            f"{without_credentials(base_url)!r} is no base URL", fix="write it like http://localhost:8000/v1"
        )
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}/chat/completions"


def _runs(draws: Iterable[int], *, together: bool) -> list[list[int]]:
    """Draws to ask for at once. Only those without a gap have the seeds that a server gives to its n answers."""
    runs = groupby(enumerate(sorted(draws)), key=lambda pair: pair[1] - pair[0] if together else pair)
    return [[draw for _, draw in run] for _, run in runs]


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. The first failure cancels the rest and is raised as it is (a TaskGroup would wrap it)."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
