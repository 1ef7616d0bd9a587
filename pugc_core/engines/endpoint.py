"""Any OpenAI-compatible chat server (vLLM, SGLang, llama.cpp, hosted) as an engine; several replicas count as one."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate, groupby, pairwise
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from pugc_core.engines.base import Answer, Generation, Refusal, Request, Sampling, serve
from pugc_core.errors import EngineError, MissingDependency, ModelNotFound

T = TypeVar("T")
# How servers say that a prompt does not fit; searched only where the status puts the blame on the request.
_TOO_LONG = re.compile(
    r"(?i)context[ _](length|size|window)|maximum (context|input|sequence|prompt)|too many (\w+ )?tokens|max_model_len"
    r"|(prompt|input|messages?) (is|are|was) too (long|large)|longer than the (model|maximum)"
)


class _TransientError(Exception):
    """A failure that may pass. Its second argument is the server's Retry-After in seconds, or 0."""


class _TooLongError(Exception):
    """The prompt exceeds what the model can read."""


@dataclass(slots=True, eq=False)
class _Replica:
    url: str
    outstanding: int = 0
    sent: int = 0
    rests_until: float = 0.0
    """A dead replica fails faster than any other answers: by load alone it would be sent every request first."""


class EndpointEngine:
    """Asks the servers at `base_urls` for chat completions of `model`, at most `max_in_flight` at a time.

    A URL without a path gets "/v1". Tries pause `backoff_s` at first, twice as long each time, and `Retry-After` on
    top. Draws are asked for together (`n`) until a server returns fewer than asked; `supports_n=False` never does so,
    for servers that give n times the same. Connections live in a background thread, on an asyncio loop of their own.
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
    ) -> None:
        try:
            import aiohttp  # noqa: F401
        except ImportError as err:
            raise MissingDependency("the endpoint engine needs aiohttp", fix='pip install -e ".[endpoint]"') from err
        if not base_urls or max_in_flight < 1:
            raise EngineError("no server or nothing in flight", fix="give base_urls, and max_in_flight of 1 or more")
        self._model = model
        self._replicas = [_Replica(_completions_url(url)) for url in base_urls]
        self._headers = {"Authorization": f"Bearer {api_key.strip()}"} if api_key else {}
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
        headers = {"Content-Type": "application/json", **self._headers}
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
            given = {g.key: g for run in await _all([self._complete(request, run) for run in runs]) for g in run}
            if len(given) < len(request.draws):
                self._use_n = False
            return await _all([self._settle(request, draw, given.get(request.key(draw))) for draw in request.draws])
        except _TooLongError:
            return [Refusal(request, "prompt_too_long")]

    async def _settle(self, request: Request, draw: int, first: Generation | None) -> Generation:
        """`first`, or a new answer where there is none or it breaks the constraint, which many servers ignore."""
        generation = first or (await self._complete(request, [draw]))[0]
        for _ in range(3):
            if _obeys(generation.text, request.sampling):
                break
            generation = (await self._complete(request, [draw]))[0]
        return generation

    async def _complete(self, request: Request, draws: Sequence[int]) -> list[Generation]:
        """Generations for the first of `draws`, at least one, after as many tries as it takes."""
        body = orjson.dumps(_payload(self._model, request, draws))
        now = asyncio.get_running_loop().time
        failed: Counter[_Replica] = Counter()
        for attempt in range(self._max_retries + 1):
            async with self._slots:
                replica = min(self._replicas, key=lambda r: (failed[r], r.rests_until > now(), r.outstanding, r.sent))
                try:
                    return _read(await self._post(replica, body), request, draws, self.name)
                except _TransientError as err:
                    problem, retry_after = err.args
            pause = min(retry_after + self._backoff_s * 2**attempt * random.uniform(0.5, 1.5), self._timeout_s)
            failed[replica] += 1
            replica.rests_until = now() + pause
            if attempt < self._max_retries:
                await asyncio.sleep(pause)
        fix = "is the server running, and the base URL right? If it is only slow: lower max_in_flight, raise timeout_s"
        raise EngineError(f"no answer after {attempt + 1} tries; the last, of {replica.url}: {problem}", fix=fix)

    async def _post(self, replica: _Replica, body: bytes) -> bytes:
        from aiohttp import ClientError

        replica.outstanding += 1
        replica.sent += 1
        try:
            # A redirected POST would arrive as a GET.
            async with self._session.post(replica.url, data=body, allow_redirects=False) as response:
                raw = await response.read()
        except (ClientError, OSError) as err:  # A timeout is an OSError.
            raise _TransientError(f"{type(err).__name__} {err}", 0.0) from err
        finally:
            replica.outstanding -= 1
        if response.status != 200:
            raise _fault(response.status, response.headers.get("Retry-After", ""), raw, self._model, replica.url)
        replica.rests_until = 0.0
        return raw


def _completions_url(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise EngineError(f"{base_url!r} is no base URL", fix="write it like http://localhost:8000/v1")
    return f"{base_url.rstrip('/')}{'' if parts.path.strip('/') else '/v1'}/chat/completions"


def _payload(model: str, request: Request, draws: Sequence[int]) -> dict[str, object]:
    """The settings that differ from their defaults, and always those whose defaults servers disagree on."""
    sampling = request.sampling
    payload = sampling.model_dump(include={"temperature", "max_tokens"})
    rest = {"top_p", "repetition_penalty", "frequency_penalty", "stop"}
    payload |= sampling.model_dump(include=rest, exclude_defaults=True)
    payload |= {"model": model, "messages": [m._asdict() for m in request.messages], "seed": request.seed(draws[0])}
    if len(draws) > 1:
        payload["n"] = len(draws)
    if sampling.choices or sampling.regex:
        payload["structured_outputs"] = {"choice": sampling.choices} if sampling.choices else {"regex": sampling.regex}
    return payload


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


def _read(raw: bytes, request: Request, draws: Sequence[int], engine: str) -> list[Generation]:
    """The choices of a response, as answers to the first of `draws`."""
    try:
        data = orjson.loads(raw)
        # By index: the answer to a draw is the one that was drawn with its seed.
        choices = sorted(data["choices"], key=lambda c: c.get("index") or 0)[: len(draws)]
        texts = [choice["message"].get("content") or "" for choice in choices]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("without a choice, or one is not text")
        usage = data.get("usage") or {}
        prompt_tokens = int(usage.get("prompt_tokens") or 0)
        shares = _split(int(usage.get("completion_tokens") or 0), [len(text) for text in texts])
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise _TransientError(f"no chat completion ({type(err).__name__} {err}): {raw[:300]!r}", 0.0) from err
    return [
        Generation(request.key(d), text, str(c.get("finish_reason") or ""), prompt_tokens, n, request.seed(d), engine)
        for d, c, text, n in zip(draws, choices, texts, shares, strict=False)
    ]


def _split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole shares proportional to `weights` that add up to it."""
    weights = weights if any(weights) else [1] * len(weights)
    return [b - a for a, b in pairwise(total * part // sum(weights) for part in accumulate(weights, initial=0))]


def _obeys(text: str, sampling: Sampling) -> bool:
    if sampling.regex:
        return re.fullmatch(sampling.regex, text.strip()) is not None
    return not sampling.choices or text.strip() in sampling.choices


def _fault(status: int, retry_after: str, raw: bytes, model: str, url: str) -> Exception:
    """The exception that an HTTP status stands for, with the server's message from where servers put it."""
    try:
        error = orjson.loads(raw)
        error = error.get("error") or error
        words = error if isinstance(error, str) else str(error.get("message") or error["detail"])
    except (ValueError, LookupError, AttributeError):
        words = raw.decode(errors="replace")
    said = f"{url} answered {status}: {words:.300}"
    if status in (408, 409, 425, 429) or status >= 500:
        return _TransientError(f"{status}: {words:.300}", _seconds(retry_after))
    if status in (401, 403):
        return EngineError(said, fix="set the environment variable that holds this server's API key")
    if status == 404:
        fix = f"use a name that {url.removesuffix('/chat/completions')}/models lists, and check the base URL"
        return ModelNotFound(f"no model {model!r}: {said}", fix=fix)
    if status in (400, 413, 422) and _TOO_LONG.search(words[:300]):
        return _TooLongError(said)
    return EngineError(said, fix="change the setting that the server names; where it is n, supports_n to false")


def _seconds(retry_after: str) -> float:
    """Retry-After in seconds from now: servers send a number or an HTTP date."""
    try:
        if re.fullmatch(r"\d+(\.\d+)?", retry_after):
            return float(retry_after)
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
