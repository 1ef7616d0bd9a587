"""The guard before the web UI: what passes and what does not."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from pugc_core.errors import PugcError
from pugc_dagster import guard
from pugc_dagster.guard import LOGIN, Guard

HOST = "localhost:3000"
JSON = {"content-type": "application/json"}
HTML = {"accept": "text/html"}
TOKEN = "a token that is long enough"


def ask(
    path: str = "/graphql",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    *,
    kind: str = "http",
    body: bytes = b"",
    front: Guard | None = None,
    **options: Any,
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the answer; 200 where the app behind the guard was reached (101 by a websocket)."""
    reached: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)
        if kind == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": scope["query_string"]})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    place, _, query = path.partition("?")
    given = {"host": HOST, **(headers or {})}
    pairs = [(k.split("#")[0].encode(), v.encode()) for k, v in given.items()]  # "host#2" is a second one
    scope = {"type": kind, "path": place, "query_string": query.encode(), "headers": pairs, "scheme": "http"}
    if kind == "http":
        scope["method"] = method
    front = front or Guard(app, **options)
    front._app = app
    with ThreadPoolExecutor(1) as pool:  # a loop may be running in this one, of a test with a browser
        pool.submit(asyncio.run, front(scope, receive, send)).result()
    if kind == "websocket":
        return (101 if reached else 403), {}, ""
    if not reached:
        assert sent[0]["status"] >= 300
    text = b"".join(message.get("body", b"") for message in sent).decode()
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, text


def test_what_passes() -> None:
    own = {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for case in [
        {"headers": {**JSON, **own}},
        {"headers": JSON},  # a script
        {"headers": {"content-type": "application/json; charset=utf-8"}},
        {"path": "/report_asset_check/a/b", "headers": JSON},
        {"path": "/assets", "method": "GET"},
        {"path": "/assets", "method": "GET", "headers": link},
        {"path": "/static/x.js", "method": "GET", "headers": own},
        {"path": "/", "method": "GET", "headers": {"host": "127.0.0.1:3000"}},
        {"path": "/", "method": "GET", "headers": {"host": "[::1]:3000"}},
        {"path": "/", "method": "GET", "headers": {"host": "192.168.1.7"}},
        {"path": "/", "method": "GET", "headers": {"host": "pugc.localhost:80"}},
        {"path": "/", "method": "GET", "headers": {"host": "Pugc.Example.org"}, "hosts": ["pugc.example.org"]},
        # A proxy that hands on its own idea of Host.
        {"headers": {**JSON, "origin": "https://pugc.example.org"}, "hosts": ["pugc.example.org"]},
    ]:
        assert ask(**case)[0] == 200, case
    for headers in ({}, own):
        assert ask(kind="websocket", headers=headers)[0] == 101


def test_what_does_not() -> None:
    for case in [
        # What a foreign page may send without asking.
        {"path": "/graphql?query=mutation", "method": "GET"},
        {"path": "/graphql/?query=mutation", "method": "GET"},
        {"path": "/prefix/graphql?query=mutation", "method": "GET"},
        *({"path": f"{path}?query=mutation", "method": "GET"} for path in ("/GraphQL", "/graphql/.", "/a%2fgraphql")),
        # No login without a token: what ends like one is what it is.
        {"path": "/report_asset_check/a" + LOGIN, "headers": {"content-type": "text/plain"}},
        {"path": "/graphql?query=mutation"},
        *({"headers": {"content-type": kind}} for kind in ("text/plain", "application/x-www-form-urlencoded")),
        {"headers": {"content-type": "text/plain; application/json"}},  # which Dagster takes for JSON
        {"headers": {"content-type": "multipart/form-data; boundary=application/json"}},
        {"headers": {**JSON, "content-type#2": "text/plain"}},
        {"headers": {"content-type": "application/graphql"}},
        {"method": "PUT", "headers": JSON},
        {"method": "DELETE", "path": "/logs/a", "headers": JSON},
        {"method": "OPTIONS", "headers": {"origin": f"http://{HOST}"}},
        # Another page, by its Origin or by what the browser says of it.
        *(
            {"headers": {**JSON, "origin": origin}}
            for origin in ("null", "http://localhost:8000", "http://127.0.0.1:3000")
        ),
        {"headers": {**JSON, "origin": f"http://{HOST}.evil.example"}},
        {"headers": {**JSON, "origin": f"http://evil.example/{HOST}"}},
        {"headers": {**JSON, "origin": f"ftp://{HOST}"}},
        {"headers": {**JSON, "origin": f"http://{HOST}", "origin#2": "http://evil.example"}},
        {"headers": {**JSON, "sec-fetch-site": "same-site"}},
        {"method": "GET", "path": "/", "headers": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}},
        {
            "method": "GET",
            "path": "/",
            "headers": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        },
        # A name that was pointed here.
        *(
            {"path": "/", "method": "GET", "headers": {"host": host}}
            for host in (
                "evil.example:3000",
                "",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "a@localhost",
                "localhost:3000, evil.example",
            )
        ),
        {"path": "/", "method": "GET", "headers": {"host#2": "localhost"}},
    ]:
        status, _, text = ask(**case)
        assert status in (403, 405, 415), case
        assert "fix: " in text
    for headers in ({"origin": "http://localhost:8000"}, {"host": "evil.example"}, {"sec-fetch-site": "same-site"}):
        assert ask(kind="websocket", headers=headers)[0] == 403


def test_paths_that_a_route_would_take_for_others() -> None:
    """Starlette's `^/graphql$` matches what uvicorn makes of /graphql%0A."""
    for path in ("/graphql\n", "/graphql\n/", "/graphql \t", "/\x00graphql", "/graphql\u2028", "/graphql\x85"):
        for headers in ({}, HTML):
            assert ask(f"{path}?query=mutation", "GET", headers)[0] == 400, path
        assert ask(path, kind="websocket")[0] == 403


def test_the_playground_is_shown_and_runs_nothing_by_itself() -> None:
    assert ask("/graphql?query=mutation", "GET", HTML) == (200, {"x-frame-options": "SAMEORIGIN"}, "")


def test_with_a_token_nothing_passes_without_a_login() -> None:
    front = Guard(None, token=TOKEN)  # type: ignore[arg-type]
    for case in (
        {"headers": JSON},
        {"path": "/x.js", "method": "GET"},
        {"headers": {**JSON, "authorization": "Bearer no"}},
    ):
        assert ask(front=front, **case)[0] == 401, case
    assert ask(kind="websocket", front=front)[0] == 403
    status, _, form = ask("/", "GET", HTML, front=front)
    assert (status, "<form" in form, TOKEN in form) == (401, True, False)
    # A script
    assert ask(headers={**JSON, "authorization": f"Bearer {TOKEN}"}, front=front)[0] == 200
    # The form
    sending = {"content-type": "application/x-www-form-urlencoded", "origin": f"http://{HOST}"}
    assert ask(LOGIN, "POST", sending, body=b"token=wrong", front=front)[0] == 401
    assert ask(LOGIN, "POST", sending, body=b"token=" + b"x" * 20_000, front=front)[0] == 413
    assert (
        ask(LOGIN, "POST", {**sending, "origin": "http://evil.example"}, body=b"token=" + TOKEN.encode(), front=front)[
            0
        ]
        == 403
    )
    status, headers, _ = ask(LOGIN, "POST", sending, body=f"token={TOKEN.replace(' ', '+')}".encode(), front=front)
    assert (status, headers["location"]) == (303, "..")
    cookie, *flags = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=lax"} <= {*flags}
    assert TOKEN not in cookie
    assert ask("/", "GET", {"cookie": f"other=1; {cookie}"}, front=front)[0] == 200
    assert ask(kind="websocket", headers={"cookie": cookie}, front=front)[0] == 101
    # Nor does a login make another page trusted, or outlive the server.
    assert ask(kind="websocket", headers={"cookie": cookie, "origin": "http://localhost:8000"}, front=front)[0] == 403
    assert ask("/", "GET", {"cookie": cookie}, token=TOKEN)[0] == 401


def test_a_login_under_a_prefix() -> None:
    """The form's action and the answer to it count from the page that was asked for."""
    front = Guard(None, token=TOKEN)  # type: ignore[arg-type]
    sending, base = {"content-type": "application/x-www-form-urlencoded"}, f"http://{HOST}"
    for page, back in (("/", "/"), ("/prefix/", "/prefix/"), ("/prefix/assets/a", "/prefix/assets/")):
        form = ask(page, "GET", HTML, front=front)[2]
        place = urljoin(base + page, form.split('action="')[1].split('"')[0]).removeprefix(base)
        status, headers, again = ask(place, "POST", sending, body=b"token=wrong", front=front)
        assert (status, 'action=""' in again) == (401, True), page
        status, headers, _ = ask(place, "POST", sending, body=f"token={TOKEN}".encode(), front=front)
        assert status == 303, page
        assert urljoin(base + place, headers["location"]) == base + back
    # With a login, too, the form is the guard's own business: Dagster has paths that end in anything.
    known = {**sending, "cookie": headers["set-cookie"].split("; ")[0]}
    assert ask("/report_asset_check/a" + LOGIN, "POST", known, body=b"{}", front=front)[0] == 401


@pytest.mark.parametrize("said", ["option", "environment"])
def test_the_webserver_by_itself_listens_to_no_network_without_a_token(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    cli: Any = importlib.import_module("dagster_webserver.cli")
    reached: list[str] = []
    monkeypatch.setattr(cli, "create_app_from_workspace_process_context", None)
    monkeypatch.setattr(cli.cli, "callback", lambda **options: reached.append(options["host"]))
    served = cli.cli.callback
    monkeypatch.delenv("PUGC_UI_TOKEN", raising=False)
    monkeypatch.setattr(sys, "argv", ["guard", *(["-h", "0.0.0.0"] if said == "option" else [])])
    if said == "environment":
        monkeypatch.setenv("DAGSTER_WEBSERVER_HOST", "0.0.0.0")
    with pytest.raises(SystemExit) as err:
        guard.webserver()
    assert "everybody in the network" in str(err.value.code)
    assert reached == []
    monkeypatch.setenv("PUGC_UI_TOKEN", TOKEN)
    monkeypatch.setattr(cli.cli, "callback", served)
    with pytest.raises(SystemExit):
        guard.webserver()
    assert reached == ["0.0.0.0"]


def test_a_token_that_protects_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUGC_UI_TOKEN", "1234")
    with pytest.raises(PugcError, match="shorter than 16"):
        guard.dev("127.0.0.1", 3000)
    monkeypatch.delenv("PUGC_UI_TOKEN")
    with pytest.raises(PugcError, match="everybody in the network") as err:
        guard.dev("0.0.0.0", 3000)
    assert "PUGC_UI_TOKEN" in (err.value.fix or "")


def test_dagster_dev_starts_what_the_guard_expects(project: Path) -> None:
    """Fails loudly where a new Dagster starts its web server otherwise, which would leave it unguarded."""
    check = """
from dagster._cli import dev
import os
seen = []
def start(parts, **kwargs):
    seen.append(parts[2])
    if len(seen) == 2:
        print(seen, flush=True)
        os._exit(0)
dev.open_ipc_subprocess = start
dev._optionally_create_temp_workspace = lambda **kw: __import__("contextlib").nullcontext([])
from pugc_dagster import guard
guard.dev("127.0.0.1", 3000)
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=project)
    assert done.stdout.splitlines()[-1] == "['pugc_dagster.guard', 'dagster._daemon']", done.stderr
