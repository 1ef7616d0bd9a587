"""Dagster's web UI behind a guard: what another page in the same browser sends is refused, before Dagster reads it.

Dagster trusts whoever reaches its port. Any page may send requests to localhost: without this guard its GraphQL runs
mutations from a GET, and from a POST that needs no leave of the browser. Rules, for HTTP and websockets alike:

- Host is an IP address, localhost, or a name in PUGC_UI_HOSTS: no foreign name that was pointed here (DNS rebinding).
- Origin, where there is one, is the page's own; so is Sec-Fetch-Site. Links into the UI work.
- What changes something is a POST of application/json, which a foreign page cannot send unasked.
- No path has white space or control characters in it: routes match some of those as if they were not there.
- With PUGC_UI_TOKEN set, everything asks for a login: a form in the browser, `Authorization: Bearer` for scripts.

`python -m pugc_dagster.guard` is `dagster-webserver`, options and all, behind the guard; `pugc ui` is `dagster dev`
with it.
"""

from __future__ import annotations

import hmac
import importlib
import ipaddress
import logging
import os
import re
import secrets
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pugc_core import default_recipe
from pugc_core.errors import PugcError
from pugc_dagster import project
from pugc_dagster.terminal.safe_text import echo

LOGIN = "/pugc/login"
"""What the form's path ends in, behind whatever `--path-prefix` or the page asked for puts before it."""
_COOKIE = "pugc_ui"
_SHORTEST = 16
"""Characters of a token; what is shorter can be guessed by trying."""
_MAKE = "openssl rand -hex 24 makes one"
_PAGE = """<!doctype html><meta charset="utf-8"><title>PUGC</title>
<style>body { font: 16px system-ui, sans-serif; margin: 20vh auto; max-width: 24rem } input { font: inherit }</style>
<form method="post" action="%s"><p>%s</p>
<input type="password" name="token" autofocus autocomplete="current-password" aria-label="token">
<button>Log in</button></form>"""


class Guard:
    """ASGI middleware around the web UI's app."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str] = (), token: str | None = None) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._token = token
        # What the browser keeps instead of the token. Another one with every start: log in again.
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        refusal = self.refusal(scope)
        if refusal is None and self._token is not None and (_is_login(scope) or not self._known(scope)):
            refusal = await self._login(scope, receive)
        if refusal is None:
            if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and _is_graphql(scope):
                # The playground's page. Whatever else it may be taken for, there is no query to run.
                scope = {**scope, "query_string": b""}
            return await self._app(scope, receive, _unframed(send))
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008, "reason": "refused by pugc"})
        return await refusal(scope, receive, _unframed(send))

    def refusal(self, scope: Scope) -> Response | None:
        """Why not to pass this on; None for what may pass."""
        if re.search(r"[\s\x00-\x1f\x7f-\x9f]", scope["path"]):
            return _refuse("white space or a control character in the path", "leave it out", status=400)
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._own(_name(hosts[0])):
            fix = "to reach the web UI by another name, put it into PUGC_UI_HOSTS (names, parted by commas)"
            return _refuse(f"not a name of this web UI: {', '.join(hosts) or 'no Host'}", fix)
        if len(origins) > 1 or any(not self._same(origin, hosts[0]) for origin in origins):
            return _refuse(f"a page of {', '.join(origins)} has no say here", "open the web UI itself")
        sent = [headers.get(f"sec-fetch-{part}") for part in ("mode", "dest")]
        link = scope["type"] == "http" and scope["method"] == "GET" and sent == ["navigate", "document"]
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not link:
            return _refuse("another page has no say here", "open the web UI itself")
        if scope["type"] == "websocket":
            return None
        if scope["method"] in ("GET", "HEAD"):
            if _is_graphql(scope) and "text/html" not in headers.get("accept", ""):
                return _refuse("GraphQL answers to POST only", "POST the query as application/json", status=405)
            return None
        if self._token is not None and _is_login(scope):
            return None  # which never reaches Dagster
        kinds = [kind.split(";")[0].strip().lower() for kind in headers.getlist("content-type")]
        if scope["method"] != "POST" or kinds != ["application/json"]:
            return _refuse("what changes something is a POST of application/json", "send it as that", status=415)
        return None

    def _own(self, name: str) -> bool:
        """Whether a host name can be ours. An IP address cannot be pointed here by somebody's DNS."""
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _same(self, origin: str, host: str) -> bool:
        scheme, mark, place = origin.lower().partition("://")
        if not mark or scheme not in ("http", "https"):
            return False
        # A proxy may hand on another Host than the one that the page was opened by.
        return place == host.lower() or _name(place) in self._hosts

    def _known(self, scope: Scope) -> bool:
        connection = HTTPConnection(scope)
        kind, _, given = connection.headers.get("authorization", "").partition(" ")
        by_header = kind.lower() == "bearer" and _equal(given.strip(), self._token or "")
        return by_header or _equal(connection.cookies.get(_COOKIE, ""), self._session)

    async def _login(self, scope: Scope, receive: Receive) -> Response:
        """The form, or what comes of sending it; for a script the plain reason."""
        if _is_login(scope):
            body = b""
            async for piece in Request(scope, receive).stream():
                body += piece
                if len(body) > 10_000:
                    return _refuse("a login of more than 10,000 bytes", "send the form", status=413)
            given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
            if not _equal(given, self._token or ""):
                return _form(scope, "That is not the token (PUGC_UI_TOKEN).")
            # Where the form was shown, without a word of where that is: a proxy may know it by another path.
            answer = RedirectResponse("..", status_code=303)
            secure = scope.get("scheme") == "https"
            answer.set_cookie(_COOKIE, self._session, httponly=True, samesite="lax", secure=secure)
            return answer
        if scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", ""):
            return _form(scope, "This web UI asks for its token (PUGC_UI_TOKEN).")
        return _refuse("no login", "send the header Authorization: Bearer and the token (PUGC_UI_TOKEN)", status=401)


def _refuse(problem: str, fix: str, *, status: int = 403) -> Response:
    return PlainTextResponse(f"refused: {problem}\n  fix: {fix}\n", status_code=status)


def _form(scope: Scope, words: str) -> Response:
    """The form, which is sent to a path beside the page that was asked for; sent once more, to the same."""
    action = "" if scope["path"].endswith(LOGIN) else LOGIN.removeprefix("/")
    return HTMLResponse(_PAGE % (action, words), 401)


def _is_login(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(LOGIN))


def _is_graphql(scope: Scope) -> bool:
    """Whether a path may be taken for GraphQL's: rather one too many, which loses its query, than one too few."""
    path = unquote(str(scope["path"])).lower().replace("\\", "/")
    return path.rstrip("/.").endswith("/graphql")


def _name(host: str) -> str:
    """Of `name:port` or `[::1]:port` the name."""
    match = re.fullmatch(r"\[([^\]]+)\](?::\d*)?|([^:\[\]]+)(?::\d*)?", host.strip().lower())
    return (match.group(1) or match.group(2)).removesuffix(".") if match else ""


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _unframed(send: Send) -> Send:
    """No other page shows ours in a frame, where a click would land on what it does not show."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("x-frame-options", "SAMEORIGIN")
        await send(message)

    return sending


def token() -> str | None:
    """What PUGC_UI_TOKEN says; None where it is not set. Raises PugcError when it is too short to protect anything."""
    found = os.environ.get("PUGC_UI_TOKEN") or None
    if found is not None and len(found) < _SHORTEST:
        raise PugcError(f"PUGC_UI_TOKEN is shorter than {_SHORTEST} characters", fix=_MAKE)
    return found


def of_environment(app: ASGIApp) -> Guard:
    """A guard as PUGC_UI_HOSTS and PUGC_UI_TOKEN say."""
    names = os.environ.get("PUGC_UI_HOSTS", "").split(",")
    return Guard(app, hosts=[name.strip() for name in names if name.strip()], token=token())


def protected(host: str) -> None:
    """Raises PugcError where the web UI would listen to a network without a token."""
    if token() is None and host not in ("localhost", "127.0.0.1", "::1"):
        raise PugcError(f"on {host} everybody in the network could run things", fix=f"set PUGC_UI_TOKEN first; {_MAKE}")


def webserver() -> None:
    """`dagster-webserver` with its app behind the guard. Listens to no network without a token."""
    cli: Any = importlib.import_module("dagster_webserver.cli")
    serve = cli.cli.callback  # told the host, whether an option or the environment said it

    def checked(**options: Any) -> Any:
        try:
            protected(options["host"])
        except PugcError as err:
            sys.exit(f"pugc: {err}")
        return serve(**options)

    cli.cli.callback = checked
    create = cli.create_app_from_workspace_process_context
    cli.create_app_from_workspace_process_context = lambda *args, **kwargs: of_environment(create(*args, **kwargs))
    cli.main()


def dev(host: str, port: int) -> None:
    """`dagster dev` in the project's folder, its web server behind the guard. Returns when it is stopped.

    Raises PugcError rather than listen to a network without a token.
    """
    protected(host)
    # The code servers and the runs that they start show and find the same recipes, whatever is fetched meanwhile.
    choice = default_recipe.look()
    if choice.why:
        echo(choice.why, fg="yellow", err=True)
    os.environ[default_recipe.VARIABLE] = choice.recipe
    root = project.root()
    os.chdir(root)  # paths in dagster.yaml count from here
    os.environ["DAGSTER_HOME"] = str(root)

    from dagster_shared.cli import WorkspaceOpts

    logging.getLogger().handlers.clear()  # Dagster's loggers have handlers of their own: each line once
    dagster_dev: Any = importlib.import_module("dagster._cli.dev")
    start = dagster_dev.open_ipc_subprocess

    def guarded(parts: Sequence[str], **kwargs: Any) -> Any:
        python, option, module, *rest = parts
        if (option, module) == ("-m", "dagster_webserver"):
            module = "pugc_dagster.guard"
        elif (option, module) != ("-m", "dagster._daemon"):
            raise RuntimeError(f"dagster dev starts {module}, which is not known here: it would go unguarded")
        return start([python, option, module, *rest], **kwargs)

    dagster_dev.open_ipc_subprocess = guarded
    dagster_dev.dev_command_impl(
        code_server_log_level="warning",
        log_level="info",
        log_format="colored",
        port=str(port),
        host=host,
        use_legacy_code_server_behavior=False,
        shutdown_pipe=None,
        verbose=False,
        workspace_opts=WorkspaceOpts(workspace=("workspace.yaml",)),
    )


if __name__ == "__main__":
    webserver()
