"""The endpoint engine against real servers on loopback that misbehave as servers do."""

import asyncio
import itertools
import random
import socket
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from aiohttp import web

from pugc_core.engines.base import Answer, Engine, Generation, Refusal, Request, Sampling
from pugc_core.engines.endpoint import EndpointEngine
from pugc_core.errors import EngineError, MissingDependency, ModelNotFound
from pugc_core.models.spec import ModelSpec
from pugc_core.prompts.base import Message

Payload = dict[str, Any]
SAMPLED = Sampling(temperature=0.8)


def text_of(payload: Payload, index: int = 0) -> str:
    return f"{payload['messages'][-1]['content']}/{payload['seed'] + index}"


def completion(payload: Payload, texts: Iterable[str | None] | None = None, **fields: Any) -> web.Response:
    """A well-formed answer, by default with all n choices."""
    if texts is None:
        texts = [text_of(payload, i) for i in range(payload.get("n", 1))]
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    return web.json_response({"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 10}, **fields})


def error(status: int, message: str, **headers: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


class Server:
    """Answers with `behave(call number, payload)`; None hangs up. `delay` seconds are slept first."""

    def __init__(self) -> None:
        self.behave: Callable[[int, Payload], web.StreamResponse | None] = lambda call, payload: completion(payload)
        self.delay: Callable[[Payload], float] = lambda payload: 0.0
        self.payloads: list[Payload] = []
        self.headers: list[Any] = []
        self.now = self.most = self.cancelled = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5)

    async def _start(self) -> web.AppRunner:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        payload = orjson.loads(await request.read())
        call = len(self.payloads)
        self.payloads.append(payload)
        self.headers.append(request.headers)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay(payload))
            response = self.behave(call, payload)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        if response is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return response

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def servers() -> Iterator[Callable[[], Server]]:
    started: list[Server] = []

    def start() -> Server:
        started.append(Server())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(servers: Callable[[], Server]) -> Server:
    return servers()


@pytest.fixture
def engine() -> Iterator[Callable[..., EndpointEngine]]:
    made: list[EndpointEngine] = []

    def make(*servers: Server | str, **settings: Any) -> EndpointEngine:
        urls = [s if isinstance(s, str) else s.url for s in servers]
        made.append(EndpointEngine(**{"model": "m", "base_urls": urls, "backoff_s": 0.01, "timeout_s": 5, **settings}))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert "pugc-endpoint" not in [thread.name for thread in threading.enumerate()]


def ask(text: str = "hi", draws: tuple[int, ...] = (0,), sampling: Sampling = SAMPLED) -> Request:
    return Request("m@1", (Message("user", text),), sampling, draws)


def answers(engine: EndpointEngine, *requests: Request | None) -> dict[bytes, Generation]:
    found = [a for a in engine.generate(requests) if a is not None]
    assert all(isinstance(a, Generation) for a in found)
    generations = {a.key: a for a in found if isinstance(a, Generation)}
    assert len(generations) == len(found)
    return generations


def dead_url() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_it_is_an_engine_and_reports_every_field(server, engine):
    made = engine(server)
    assert isinstance(made, Engine)
    request = ask(draws=(3,))
    (only,) = answers(made, request).values()
    text = f"hi/{request.seed(3)}"
    assert only == Generation(request.key(3), text, "stop", 7, 10, request.seed(3), "endpoint 1")


def test_each_answer_reaches_its_own_request_in_whatever_order(server, engine):
    server.delay = lambda payload: random.random() / 50
    requests = [ask(f"question {i}", draws=(i % 3,)) for i in range(200)]
    found = answers(engine(server, max_in_flight=16), *requests)
    assert [found[r.key(r.draws[0])].text for r in requests] == [
        f"question {i}/{r.seed(i % 3)}" for i, r in enumerate(requests)
    ]


def test_completion_order_lets_a_quick_answer_overtake(server, engine):
    server.delay = lambda payload: 0.5 if payload["messages"][0]["content"] == "slow" else 0.0
    texts = [a.text.split("/")[0] for a in engine(server).generate([ask("slow"), ask("quick")])]
    assert texts == ["quick", "slow"]


def test_payload_has_every_setting_so_that_no_server_fills_one_in(server, engine):
    request = ask("é 👍")
    answers(engine(server, model="served-name"), request)
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}
    penalties = {"repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    assert server.payloads == [
        {
            "model": "served-name",
            "messages": [{"role": "user", "content": "é 👍"}],
            "temperature": 0.8,
            "max_tokens": 512,
            "seed": request.seed(0),
            **neutral,
            **penalties,
        }
    ]
    assert "Authorization" not in server.headers[0]


@pytest.mark.slow
def test_every_field_that_vllms_server_would_fill_in_is_sent(server, engine):
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    answers(engine(server), ask())
    filled_in = protocol.ChatCompletionRequest._DEFAULT_SAMPLING_PARAMS.default
    assert filled_in.keys() <= server.payloads[0].keys()


UNKNOWN_FIELDS = [
    (400, '{"error": {"message": "Unrecognized request arguments supplied: min_p, repetition_penalty, top_k"}}'),
    (400, '{"error": {"message": "Unknown parameter: \'%s\'."}}'),
    (400, '{"error": {"message": "property \'%s\' is unsupported"}}'),
    (422, '{"detail": [{"type": "extra_forbidden", "loc": ["body", "%s"], "msg": "Extra inputs are not permitted"}]}'),
    (422, '{"detail": [{"loc": ["body", "%s"], "msg": "Input should be greater than or equal to 0"}]}'),
    (400, '{"error": {"message": "%s must be between 0 and 100, got -1"}}'),
    (400, '{"error": {"message": "Bad value for \'%s\': out of range"}}'),
    (400, '{"error": {"message": "Invalid value for \'%s\'"}}'),
    (400, '{"error": {"message": "property \'%s\' is invalid"}}'),
    (400, '[{"error": {"message": "Invalid JSON payload received. Unknown name \\"%s\\": Cannot find field."}}]'),
]


def test_neutral_fields_that_a_server_does_not_know_are_left_out_for_it_alone(servers, engine):
    for status, words in UNKNOWN_FIELDS:
        hosted, vllm = servers(), servers()

        def refuse(call, payload, status=status, words=words):
            unknown = [name for name in ("top_k", "min_p", "repetition_penalty") if name in payload]
            if not unknown:
                return completion(payload)
            return web.Response(status=status, text=words % unknown[0] if "%s" in words else words)

        hosted.behave = refuse
        made = engine(hosted, vllm)
        requests = [ask(f"q{i}") for i in range(6)]
        assert len(answers(made, *requests)) == 6
        assert any("top_k" not in p for p in hosted.payloads)
        assert all(p["frequency_penalty"] == 0 and p["top_p"] == 1 for p in hosted.payloads)
        assert all(p["top_k"] == -1 for p in vllm.payloads)
        asked = len(hosted.payloads)
        answers(made, *[ask(f"later {i}") for i in range(4)])
        assert not any("top_k" in p for p in hosted.payloads[asked:]), "it is asked once"


def test_a_field_that_says_something_is_never_left_out(server, engine):
    server.behave = lambda call, payload: error(400, "Unrecognized request argument supplied: repetition_penalty")
    err = failure(engine(server), ask(sampling=Sampling(repetition_penalty=1.03)))
    assert "Unrecognized request argument supplied: repetition_penalty" in err.problem
    assert all(p["repetition_penalty"] == 1.03 for p in server.payloads)
    server.payloads.clear()
    server.behave = lambda call, payload: error(400, "temperature must be at most 1; invalid request")
    failure(engine(server), ask())
    assert [p["top_k"] for p in server.payloads] == [-1], "what is not named stays"


# -- system texts where the format has no place for one ----------------------------------------------------------

CHAT = (Message("system", "Be fair."), Message("user", "Judge."))
NO_SYSTEM = [
    (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
    (400, "System role not supported"),
    (400, "Only user and assistant roles are supported!"),
    (500, "Jinja Exception: System role not supported"),
    (400, "Developer instruction is not enabled for models/gemma-3"),
]


def system_asked(request: Request, text: str = "") -> Request:
    return Request(request.model, (*CHAT[:1], Message("user", f"Judge.{text}")), request.sampling, request.draws)


def test_a_refused_system_text_goes_before_the_users_and_is_remembered(servers, engine):
    from pugc_core.engines.base import folded

    for status, words in NO_SYSTEM:
        server = servers()
        server.behave = lambda call, payload, status=status, words=words: (
            error(status, words) if payload["messages"][0]["role"] == "system" else completion(payload)
        )
        made = engine(server)
        request = system_asked(ask(draws=(0, 1)))
        found = answers(made, request)
        assert found.keys() == {request.key(0), request.key(1)}, "filed under what was asked"
        assert server.payloads[-1]["seed"] == request.seed(0)
        (folded_text,) = [m.content for m in folded(request.messages)]
        assert server.payloads[-1]["messages"] == [{"role": "user", "content": folded_text}]
        assert folded_text == "Be fair.\nJudge."
        assert len(server.payloads) == 2
        answers(made, system_asked(ask(), " Again."))
        assert len(server.payloads) == 3


def test_whether_there_is_a_system_role_may_be_said(servers, engine):
    without = servers()
    answers(engine(without, system_role=False), system_asked(ask()))
    assert [m["role"] for m in without.payloads[0]["messages"]] == ["user"]
    with_one = servers()
    with_one.behave = lambda call, payload: error(400, "System role not supported")
    assert "System role not supported" in failure(engine(with_one, system_role=True), system_asked(ask())).problem
    accepted = servers()
    answers(engine(accepted), system_asked(ask()))
    assert [m["role"] for m in accepted.payloads[0]["messages"]] == ["system", "user"]


def test_a_lone_system_text_that_is_refused_is_an_error_and_no_loop(server, engine):
    server.behave = lambda call, payload: error(400, "System role not supported")
    for system_role in (None, False):
        failure(engine(server, system_role=system_role), Request("m@1", CHAT[:1], SAMPLED))


# -- what is sent, continued -------------------------------------------------------------------------------------


def test_payload_with_everything_set(server, engine):
    penalties = {"repetition_penalty": 1.03, "frequency_penalty": 0.5}
    sampling = Sampling(top_p=0.9, top_k=20, stop=("\n",), max_tokens=9, regex=".*", **penalties)
    answers(engine(server, api_key="secret\n"), ask(sampling=sampling, draws=(0, 1)))
    sent = server.payloads[0]
    wanted = {"top_p": 0.9, "top_k": 20, **penalties, "stop": ["\n"], "max_tokens": 9, "n": 2, "temperature": 1.0}
    assert sent.items() >= {**wanted, "structured_outputs": {"regex": ".*"}}.items()
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_base_url_with_and_without_path(server, engine, path):
    assert answers(engine(server.url + path), ask())


def test_text_is_what_the_server_gave(server, engine):
    odd = "  <|im_end|>\r\n\u2028 \x00 \U0001f600 "
    server.behave = lambda call, payload: completion(payload, [odd])
    assert next(iter(answers(engine(server), ask()).values())).text == odd


def test_no_usage_and_a_usage_that_no_machine_has(server, engine):
    message = {"message": {"content": "a"}, "finish_reason": "stop"}
    server.behave = lambda call, payload: web.json_response({"choices": [message]})
    (only,) = answers(engine(server), ask()).values()
    assert (only.text, only.prompt_tokens, only.completion_tokens) == ("a", 0, 0)
    absurd = {"prompt_tokens": 2**63, "completion_tokens": -1}
    server.behave = lambda call, payload: web.json_response({"choices": [message], "usage": absurd})
    (only,) = answers(engine(server), ask()).values()
    assert (only.prompt_tokens, only.completion_tokens) == (2**31 - 1, 0)


def silent(payload: Payload, finish: str = "length") -> web.Response:
    choice = {"message": {"role": "assistant", "content": None}, "finish_reason": finish}
    return web.json_response({"choices": [choice]})


def test_an_answer_without_text_is_asked_again_and_then_refused(server, engine):
    server.behave = lambda call, payload: (
        silent(payload) if "mute" in payload["messages"][0]["content"] else completion(payload)
    )
    mute, fine = ask("mute", draws=(0, 3)), ask("fine")
    found = list(engine(server).generate([fine, mute]))
    assert [a for a in found if isinstance(a, Refusal)] == [Refusal(mute, "no_content")]
    assert [a.key for a in found if isinstance(a, Generation)] == [fine.key(0)]
    assert sum("mute" in p["messages"][0]["content"] for p in server.payloads) >= 3
    server.behave = lambda call, payload: silent(payload) if call == asked else completion(payload)
    asked = len(server.payloads)
    assert answers(engine(server), ask("a passing fault"))


def test_one_draw_without_text_is_asked_again_by_itself(server, engine):
    server.behave = lambda call, payload: completion(payload, ["a", None, "c"] if call == 0 else ["b"])
    request = ask(draws=(0, 1, 2))
    made = engine(server)
    found = answers(made, request)
    assert [found[request.key(d)].text for d in request.draws] == ["a", "b", "c"]
    answers(made, ask("later", draws=(0, 1)))
    assert server.payloads[2]["n"] == 2, "n still serves"


def test_a_draw_that_never_has_a_text_takes_no_other_with_it(server, engine):
    """The judge whose thoughts eat all its tokens at one seed, as often as it is asked."""
    request = ask(draws=tuple(range(8)))
    mute = request.seed(3)

    def thinking(call: int, payload: Payload) -> web.Response:
        seeds = range(payload["seed"], payload["seed"] + payload.get("n", 1))
        return completion(payload, [None if seed == mute else f"{seed}" for seed in seeds])

    server.behave = thinking
    for supports_n in (True, False):
        server.payloads.clear()
        found = list(engine(server, supports_n=supports_n, backoff_s=0.001).generate([request]))
        came = {a.key: a.text for a in found if isinstance(a, Generation)}
        assert came == {request.key(d): f"{request.seed(d)}" for d in range(8) if d != 3}
        refused = [a for a in found if isinstance(a, Refusal)]
        assert refused == [Refusal(replace(request, draws=(3,)), "no_content")]
        assert sum(p["seed"] == mute for p in server.payloads) == 3
    chosen = replace(request, sampling=Sampling(temperature=0.8, choices=("a",)), draws=(0,))
    server.behave = lambda call, payload: completion(payload, ["b" if call == asked else None])
    asked = len(server.payloads)
    (given,) = engine(server, backoff_s=0.001).generate([chosen])
    assert isinstance(given, Generation), "what came stays, also where no better one comes"


def test_a_server_that_never_gives_a_text_is_an_error(server, engine):
    server.behave = lambda call, payload: silent(payload, "tool_calls")
    err = failure(engine(server, backoff_s=0.001), *[ask(f"q{i}") for i in range(20)])
    assert "content: null, finish_reason 'tool_calls'" in err.problem


def test_an_answer_by_another_model_names_both(server, engine):
    wrong = [("llama-3-8b", "mistral-7b"), ("gpt-4o", "gpt-4o-mini"), ("org/a", "org/b")]
    for asked, answered in wrong:
        server.behave = lambda call, payload, answered=answered: completion(payload, model=answered)
        err = failure(engine(server, model=asked), ask())
        assert repr(asked) in err.problem
        assert repr(answered) in err.problem
        assert f"served_as = {answered!r}" in (err.fix or "")
        assert answers(engine(server, model=asked, served_as=answered), ask())
    same = [
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4", "gpt-4-0613"),
        ("org/Model", "/models/model"),
        ("m", ""),
        ("claude", "claude@20240229"),
        ("mistral", "mistral:latest"),
    ]
    for asked, answered in same:
        server.behave = lambda call, payload, answered=answered: completion(payload, model=answered)
        assert answers(engine(server, model=asked), ask()), asked


# -- secrets -----------------------------------------------------------------------------------------------------

KEY, PASSWORD = "sk-proj-4242abcdef", 'p@ss:"w0rd!é'
LOGIN = f"robot:{quote(PASSWORD, safe='')}@"


def test_a_login_in_a_base_url_is_sent_and_shown_nowhere(server, engine):
    url = server.url.replace("://", f"://{LOGIN}")
    encoded = b64encode(f"robot:{PASSWORD}".encode()).decode()
    answers(engine(url), ask())
    assert server.headers[0]["Authorization"] == f"Basic {encoded}"
    answers(engine(url, api_key=KEY), ask())
    assert server.headers[1]["Authorization"] == f"Basic {encoded}", "the URL's own is for this server"
    secrets = (PASSWORD, quote(PASSWORD, safe=""), encoded, KEY, "robot")
    said = f"{' '.join(secrets)} "

    def hidden(err: Exception) -> None:
        assert not [s for s in secrets if s in f"{err} {err!r} {err.__cause__}"], err

    faults: list[Callable[[int, Payload], web.StreamResponse]] = [
        lambda call, payload: error(401, said),
        lambda call, payload: error(404, said),
        lambda call, payload: error(400, "x" * 290 + said),
        lambda call, payload: error(500, said),
        lambda call, payload: web.Response(body=(said + "x" * 400).encode()),
        lambda call, payload: web.Response(body=b"x" * 292 + said.encode()),
        lambda call, payload: completion(payload, model=said),
        lambda call, payload: web.Response(status=302, headers={"Location": f"http://{LOGIN}x"}),
    ]
    for behave in faults:
        server.behave = behave
        hidden(failure(engine(url, api_key=KEY, max_retries=0), ask()))
    for bad in (f"http//{LOGIN}host", f"{LOGIN}host:8000", f"ftp://{LOGIN}host/v1"):
        with pytest.raises(EngineError, match="no base URL") as caught:
            engine(bad)
        hidden(caught.value)
    for bad in ("robot:secret#word@host/v1", "robot:secret/word@host/v1", "robot:secret?word@host", "robot:secret"):
        with pytest.raises(EngineError, match="no base URL") as caught:
            engine(f"http://{bad}")
        assert "secret" not in f"{caught.value} {caught.value.__cause__}"
        hidden(caught.value)
    hidden(failure(engine(dead_url().replace("://", f"://{LOGIN}"), max_retries=0), ask()))


def test_a_key_that_a_server_gives_back_is_in_no_answer(server, engine):
    said = f"Authorization: Bearer {KEY}. It is a secret."
    server.behave = lambda call, payload: completion(payload, [said])
    (only,) = answers(engine(server, api_key=KEY), ask()).values()
    assert only.text == "Authorization: Bearer ***. It is a secret."
    (only,) = answers(engine(server, api_key="secret"), ask()).values()
    assert only.text == said, "ordinary words stay, also where a key is one"


def test_a_models_spec_shows_no_login():
    spec = ModelSpec(id="m", base_urls=(f"http://{LOGIN}host/v1",))
    assert not [s for s in ("robot", PASSWORD, quote(PASSWORD, safe="")) if s in repr(spec) + spec.identity]


# -- draws -------------------------------------------------------------------------------------------------------


def test_consecutive_draws_go_together_with_their_seeds(server, engine):
    request = ask(draws=(4, 5, 6, 9))
    found = answers(engine(server), request)
    assert sorted((p["seed"], p.get("n", 1)) for p in server.payloads) == [(request.seed(4), 3), (request.seed(9), 1)]
    assert {d: found[request.key(d)].text for d in request.draws} == {d: f"hi/{request.seed(d)}" for d in request.draws}


def test_choices_are_taken_by_their_index(server, engine):
    def shuffled(call, payload):
        body = orjson.loads(completion(payload).body)
        body["choices"].reverse()
        return web.json_response(body)

    server.behave = shuffled
    request = ask(draws=(0, 1, 2))
    found = answers(engine(server), request)
    assert all(found[request.key(d)].text == f"hi/{request.seed(d)}" for d in request.draws)


def test_tokens_are_split_by_length_and_add_up(server, engine):
    server.behave = lambda call, payload: completion(
        payload, ["a" * 10, "b" * 29, "", "c"], usage={"prompt_tokens": 5, "completion_tokens": 101}
    )
    request = ask(draws=(0, 1, 2, 3))
    found = answers(engine(server), request)
    tokens = [found[request.key(d)].completion_tokens for d in request.draws]
    assert sum(tokens) == 101
    assert all(abs(got - 101 * chars / 40) <= 1 for got, chars in zip(tokens, (10, 29, 0, 1), strict=True))
    assert {g.prompt_tokens for g in found.values()} == {5}


def test_answers_that_ended_by_length_have_their_whole_length(server, engine):
    """Else an estimate would take them for cut by the context, and have them asked again."""

    def choices(tokens: int) -> web.Response:
        body = orjson.loads(completion({}, ["a" * 10, "b" * 30, "c" * 10]).body)
        body["choices"][0]["finish_reason"] = body["choices"][1]["finish_reason"] = "length"
        return web.json_response({**body, "usage": {"completion_tokens": tokens}})

    for tokens, wanted in ((45, [20, 20, 5]), (30, [6, 18, 6])):  # the second sum has no room for 2 x 20
        server.behave = lambda call, payload, tokens=tokens: choices(tokens)
        request = ask(draws=(0, 1, 2), sampling=Sampling(max_tokens=20))
        found = answers(engine(server), request)
        assert [found[request.key(d)].completion_tokens for d in request.draws] == wanted


@pytest.mark.parametrize("given", [1, 3])
def test_fewer_choices_than_asked_all_draws_arrive(server, engine, given):
    server.behave = lambda call, payload: completion(
        payload, [text_of(payload, i) for i in range(min(given, payload.get("n", 1)))]
    )
    requests = [ask(f"q{i}", draws=tuple(range(8))) for i in range(5)]
    made = engine(server)
    found = answers(made, *requests)
    assert all(found[r.key(d)].text == f"q{i}/{r.seed(d)}" for i, r in enumerate(requests) for d in r.draws)
    asked = len(server.payloads)
    answers(made, ask("later", draws=(0, 1, 2)))
    assert [p.get("n", 1) for p in server.payloads[asked:]] == [1, 1, 1]


def test_more_choices_than_asked_are_left_out(server, engine):
    server.behave = lambda call, payload: completion(payload, ["a", "b", "c"])
    assert [g.text for g in answers(engine(server), ask()).values()] == ["a"]


def test_one_by_one_without_n_and_for_greedy_answers(server, engine):
    answers(engine(server, supports_n=False), ask(draws=(0, 1, 2)))
    answers(engine(server), ask(draws=(0, 1, 2), sampling=Sampling(temperature=0)))
    assert len(server.payloads) == 6
    assert not any("n" in p for p in server.payloads)


# -- constraints -------------------------------------------------------------------------------------------------


def test_answer_outside_the_choices_is_asked_again(server, engine):
    server.behave = lambda call, payload: completion(payload, [" True\n" if call == 2 else "Well, yes"])
    (only,) = answers(engine(server), ask(sampling=Sampling(choices=("True", "False")))).values()
    assert only.text == " True\n"
    assert len(server.payloads) == 3
    assert server.payloads[0]["structured_outputs"] == {"choice": ["True", "False"]}


@pytest.mark.parametrize("sampling", [Sampling(choices=("True", "False")), Sampling(regex="True|False")])
def test_answer_that_never_obeys_is_given_as_it_is(server, engine, sampling):
    server.behave = lambda call, payload: completion(payload, ["Well, yes"])
    assert [g.text for g in answers(engine(server), ask(sampling=sampling)).values()] == ["Well, yes"]
    assert len(server.payloads) == 4


def test_only_the_draw_that_broke_the_constraint_is_asked_again(server, engine):
    server.behave = lambda call, payload: completion(payload, ["A", "?", "B"] if call == 0 else ["B"])
    request = ask(draws=(0, 1, 2), sampling=Sampling(choices=("A", "B")))
    found = answers(engine(server), request)
    assert [found[request.key(d)].text for d in request.draws] == ["A", "B", "B"]
    assert [(p["seed"], p.get("n")) for p in server.payloads[1:]] == [(request.seed(1), None)]


# -- faults that pass --------------------------------------------------------------------------------------------


FAULTS: dict[str, Callable[[Payload], web.StreamResponse | None]] = {
    "500": lambda payload: error(500, "boom"),
    "503 html": lambda payload: web.Response(status=503, text="<html>busy</html>"),
    "408": lambda payload: error(408, "slow"),
    "409": lambda payload: error(409, "conflict"),
    "425": lambda payload: error(425, "early"),
    "429": lambda payload: error(429, "enough"),
    "cut JSON": lambda payload: web.Response(body=b'{"choices": [', content_type="application/json"),
    "no choices": lambda payload: completion(payload, []),
    "error in a 200": lambda payload: web.json_response({"error": {"message": "upstream"}}),
    "not an object": lambda payload: web.json_response([1]),
    "no message": lambda payload: web.json_response({"choices": [{}]}),
    "content not text": lambda payload: web.json_response({"choices": [{"message": {"content": [1]}}]}),
    "dropped": lambda payload: None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_passing_fault_is_tried_again(server, engine, fault):
    server.behave = lambda call, payload: FAULTS[fault](payload) if call < 2 else completion(payload)
    request = ask(draws=(0, 1))
    found = answers(engine(server), request)
    assert [found[request.key(d)].text for d in (0, 1)] == [f"hi/{request.seed(0)}", f"hi/{request.seed(1)}"]
    assert len(server.payloads) == 3


def test_many_faults_among_many_requests_lose_and_double_nothing(server, engine):
    faults = list(FAULTS.values())
    server.behave = lambda call, payload: (
        faults[call // 4 % len(faults)](payload) if call % 4 == 0 else completion(payload)
    )
    requests = [ask(f"q{i}", draws=(0, 1, 2)) for i in range(150)]
    found = answers(engine(server, max_in_flight=16, backoff_s=0.001, max_retries=20), *requests)
    assert all(found[r.key(d)].text == f"q{i}/{r.seed(d)}" for i, r in enumerate(requests) for d in r.draws)


def test_body_shorter_than_announced_is_tried_again(engine):
    """A connection that dies halfway through the body, which no well-behaved server library would send."""
    whole = orjson.dumps({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]})
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(whole)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_two() -> None:
            for body in (whole[:9], whole):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(head + body)

        thread = threading.Thread(target=serve_two)
        thread.start()
        (only,) = answers(engine(f"http://127.0.0.1:{listener.getsockname()[1]}"), ask()).values()
        thread.join(5)
    assert only.text == "whole"


def test_timeout_is_tried_again(server, engine):
    server.delay = lambda payload: 5 if len(server.payloads) == 1 else 0
    assert answers(engine(server, timeout_s=0.2), ask())
    assert len(server.payloads) == 2


@pytest.mark.parametrize(
    "wait", [lambda: "0.4", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)]
)
def test_retry_after_is_waited_for(server, engine, wait):
    server.behave = lambda call, payload: (
        error(429, "enough", **{"Retry-After": wait()}) if call == 0 else completion(payload)
    )
    start = time.monotonic()
    assert answers(engine(server), ask())
    assert 0.4 <= time.monotonic() - start < 3


def test_retry_after_that_nobody_can_read_is_passed_over(server, engine):
    server.behave = lambda call, payload: (
        error(503, "", **{"Retry-After": "soon"}) if call == 0 else completion(payload)
    )
    assert answers(engine(server), ask())


# -- faults that stay --------------------------------------------------------------------------------------------


def failure(engine: EndpointEngine, *requests: Request | None) -> EngineError:
    start = time.monotonic()
    with pytest.raises(EngineError) as caught:
        list(engine.generate(requests))
    assert time.monotonic() - start < 3
    return caught.value


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_key_says_how_to_set_it(server, engine, status):
    server.behave = lambda call, payload: error(status, "invalid key")
    err = failure(engine(server, api_key="secret"), *[ask(f"q{i}") for i in range(100)])
    assert "invalid key" in err.problem
    assert "environment variable" in (err.fix or "")
    assert "secret" not in str(err)


def test_unknown_model_is_named_with_its_server(server, engine):
    server.behave = lambda call, payload: error(404, "no such model")
    err = failure(engine(server, model="mistral-8x"), ask())
    assert isinstance(err, ModelNotFound)
    assert "mistral-8x" in str(err)
    assert server.url in str(err)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "The input (9000 tokens) is longer than the model's context length (4096 tokens).",
        "the request exceeds the available context size, try increasing it",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "prompt is too long: 210000 tokens",
        "Too many input tokens",
    ],
)
def test_prompt_that_does_not_fit_is_refused_once_and_the_rest_goes_on(server, engine, message):
    server.behave = lambda call, payload: (
        error(400, message) if "long" in payload["messages"][0]["content"] else completion(payload)
    )
    long, short = ask("long", draws=(0, 1, 5)), ask("short")
    found = list(engine(server).generate([long, short]))
    assert [a for a in found if isinstance(a, Refusal)] == [Refusal(long, "prompt_too_long")]
    assert [a.key for a in found if isinstance(a, Generation)] == [short.key(0)]


def test_other_rejection_raises_with_the_servers_words(server, engine):
    server.behave = lambda call, payload: error(400, "temperature must be in (0, 1]" + "x" * 1000)
    err = failure(engine(server), ask())
    assert "temperature must be in (0, 1]" in err.problem
    assert len(err.problem) < 400
    assert len(server.payloads) == 1


@pytest.mark.parametrize(
    "body", ['{"message": "told you"}', '{"error": "told you"}', '{"detail": "told you"}', "told you"]
)
def test_the_servers_words_are_found_wherever_it_puts_them(server, engine, body):
    server.behave = lambda call, payload: web.Response(status=422, text=body)
    assert failure(engine(server), ask()).problem.endswith("answered 422: told you")


def test_redirect_is_not_followed(server, engine):
    server.behave = lambda call, payload: web.Response(status=301, headers={"Location": "/elsewhere"})
    assert "301" in failure(engine(server), ask()).problem


def test_dead_server_raises_soon(engine):
    url = dead_url()
    err = failure(engine(url, max_retries=2), *[ask(f"q{i}", draws=(0, 1)) for i in range(200)])
    assert url in err.problem
    assert "3 tries" in err.problem
    assert "is the server running" in (err.fix or "")


def test_lasting_500_raises_with_the_last_failure(server, engine):
    server.behave = lambda call, payload: error(500, "out of memory")
    assert "out of memory" in failure(engine(server, max_retries=1), ask()).problem
    assert len(server.payloads) == 2


def test_error_mid_stream_comes_after_what_is_done_and_cancels_the_rest(server, engine):
    def behave(call, payload):
        return error(401, "expired") if payload["messages"][0]["content"] == "q9" else completion(payload)

    server.behave = behave
    names = {"q9": 0.3, **{f"q{i}": 0.0 for i in range(9)}}
    server.delay = lambda payload: names.get(payload["messages"][0]["content"], 30)
    start = time.monotonic()
    stream = engine(server).generate(ask(f"q{i}") for i in itertools.count())
    assert all(isinstance(next(stream), Generation) for _ in range(9))
    with pytest.raises(EngineError, match="expired"):
        next(stream)
    assert time.monotonic() - start < 3
    deadline = time.monotonic() + 2
    while server.now and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.now == 0
    assert server.cancelled > 0


def test_error_of_the_caller_cancels_what_is_out(server, engine):
    server.delay = lambda payload: 30

    def requests() -> Iterator[Request]:
        yield ask()
        raise ZeroDivisionError

    made = engine(server)
    with pytest.raises(ZeroDivisionError):
        list(made.generate(requests()))
    server.delay = lambda payload: 0
    assert answers(made, ask())  # and the engine is as good as before


def test_stream_left_early_and_engine_closed_with_work_out(server, engine):
    server.delay = lambda payload: 0 if payload["messages"][0]["content"] == "q0" else 30
    made = engine(server)
    stream = made.generate([ask("q0"), ask("q1"), ask("q2")])
    assert isinstance(next(stream), Generation)
    start = time.monotonic()
    made.close()
    with pytest.raises(EngineError, match="closed"):
        next(stream)
    assert time.monotonic() - start < 3
    made.close()
    assert answers(made, ask("q0"))


# -- replicas, concurrency, pace ---------------------------------------------------------------------------------


def test_replicas_share_the_work_even_one_request_at_a_time(servers, engine):
    one, two = servers(), servers()
    made = engine(one, two)
    for i in range(10):
        answers(made, ask(f"q{i}"))
    assert (len(one.payloads), len(two.payloads)) == (5, 5)


def test_slow_replica_gets_less(servers, engine):
    slow, quick = servers(), servers()
    slow.delay = lambda payload: 0.2
    quick.delay = lambda payload: 0.01
    answers(engine(slow, quick, max_in_flight=8), *[ask(f"q{i}") for i in range(120)])
    assert len(quick.payloads) > 3 * len(slow.payloads) > 0


def test_dead_replica_costs_no_answers_and_few_tries(servers, engine):
    alive = servers()
    alive.delay = lambda payload: 0.01
    broken = servers()
    broken.behave = lambda call, payload: error(500, "engine is dead")
    made = engine(dead_url(), broken, alive, max_retries=2, backoff_s=0.2, max_in_flight=16)
    assert len(answers(made, *[ask(f"q{i}") for i in range(300)])) == 300
    assert len(broken.payloads) < 150


@pytest.mark.parametrize("settings", [{}, {"supports_n": False}])
def test_concurrency_is_bounded_and_used(server, engine, settings):
    server.delay = lambda payload: 0.02
    answers(engine(server, max_in_flight=5, **settings), *[ask(f"q{i}", draws=(0, 1, 2)) for i in range(20)])
    assert server.most == 5


def test_requests_are_pulled_only_as_there_is_room(server, engine):
    server.delay = lambda payload: 0.01
    pulled = itertools.count()
    stream = engine(server, max_in_flight=4).generate(ask(f"q{next(pulled)}") for _ in range(10**9))
    for _ in range(20):
        next(stream)
    stream.close()
    assert next(pulled) <= 20 + 2 * 4


def test_nothing_to_ask_just_now(server, engine):
    request = ask()
    seen: list[Answer | None] = []

    def requests() -> Iterator[Request | None]:
        yield None
        yield request
        while not any(seen):  # The next request depends on the answer.
            yield None
        yield ask("then")

    for answer in engine(server).generate(requests()):
        seen.append(answer)  # noqa: PERF402 - read above while it grows
    texts = [a.text.split("/")[0] for a in seen if isinstance(a, Generation)]
    assert (seen[0], texts) == (None, ["hi", "then"])


def test_nothing_at_all(server, engine):
    assert list(engine(server).generate([])) == []


# -- construction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("urls", [[], ["localhost:8000"], "http://localhost"])
def test_bad_base_urls_are_named(urls):
    with pytest.raises(EngineError, match=r"no server|no base URL"):
        EndpointEngine(model="m", base_urls=urls)


def test_without_aiohttp_the_error_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingDependency, match="endpoint engine") as caught:
        EndpointEngine(model="m", base_urls=["http://localhost"])
    assert caught.value.fix == 'pip install -e ".[endpoint]"'
