"""A hostile page in the same browser, against the web UI on localhost."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.dev import free_port

# Each way that a browser lets a page send something to another origin without asking it, with a mutation of its own.
HOSTILE = """<!doctype html><script>
const set = (name) => `mutation { setConcurrencyLimit(concurrencyKey: "${name}", limit: 1) }`;
const json = (name) => JSON.stringify({query: set(name)});
const asked = (url, name) => url + "?query=" + encodeURIComponent(set(name));
const loaded = (element, url) => new Promise((done) => {
  element.onload = element.onerror = () => done();
  element.src = url;
  document.body.append(element);
});
const tries = {
  get: (url) => fetch(asked(url, "get"), {mode: "no-cors"}),
  html: (url) => fetch(asked(url, "html"), {mode: "no-cors", headers: {Accept: "text/html"}}),
  image: (url) => loaded(new Image(), asked(url, "image")),
  frame: (url) => loaded(document.createElement("iframe"), asked(url, "frame")),
  query: (url) => fetch(asked(url, "query"), {mode: "no-cors", method: "POST"}),
  plain: (url) => fetch(url, {mode: "no-cors", method: "POST", body: json("plain"),
    headers: {"Content-Type": "text/plain; application/json"}}),
  json: (url) => fetch(url, {method: "POST", body: json("json"), headers: {"Content-Type": "application/json"}}),
  beacon: (url) => navigator.sendBeacon(url, new Blob([json("beacon")], {type: "text/plain; application/json"})),
  form: (url) => {
    const frame = document.body.appendChild(document.createElement("iframe"));
    frame.name = "target";
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, {method: "post", target: "target", action: asked(url, "form")});
    form.submit();
    return new Promise((done) => { frame.onload = done; });
  },
};
const soon = (promise) => Promise.race([promise, new Promise((done) => setTimeout(done, 3000))]).catch(() => {});
const attack = async (url) => {
  await Promise.all(Object.values(tries).map((send) => soon(Promise.resolve(send(url)))));
  return Object.keys(tries).length;
};
</script><body>hostile</body>"""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(HOSTILE.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hostile() -> Iterator[str]:
    """A page of another origin on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def serve(project: Path) -> Iterator[Callable[..., str]]:
    """Starts a web server over an empty workspace: serve("pugc_dagster.guard", TOKEN="x"). Returns its address."""
    started = []

    def start(module: str, **environment: str) -> str:
        port = free_port()
        command = [sys.executable, "-m", module, "--empty-workspace", "-p", str(port)]
        (project / ".dagster").mkdir(exist_ok=True)
        started.append(subprocess.Popen(command, cwd=project, env={**os.environ, **environment}))
        deadline = time.time() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5).close()
            except urllib.error.HTTPError:
                break  # asks for a login
            except OSError:
                assert time.time() < deadline
                assert started[-1].poll() is None
                time.sleep(0.3)
            else:
                break
        return f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


def limits(url: str, token: str = "") -> set[str]:
    """The concurrency limits that somebody has set: what the mutations leave."""
    body = json.dumps({"query": "{ instance { concurrencyLimits { concurrencyKey } } }"}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/graphql", body, headers), timeout=60) as answer:
        return {found["concurrencyKey"] for found in json.load(answer)["data"]["instance"]["concurrencyLimits"]}


OWN = """async () => (await (await fetch("/graphql", {method: "POST", headers: {"Content-Type": "application/json"},
  body: JSON.stringify({query: 'mutation { setConcurrencyLimit(concurrencyKey: "own", limit: 1) }'})})).json()).data"""


SOCKET = """(url) => new Promise((done) => { const found = new WebSocket(url.replace("http", "ws"), "graphql-ws");
  found.onopen = () => done("open"); found.onerror = () => done("refused"); })"""


@pytest.mark.slow
def test_a_hostile_page_changes_nothing(serve: Callable[..., str], hostile: str, page: Any) -> None:
    url = serve("pugc_dagster.guard")
    page.goto(hostile)
    assert page.evaluate("url => attack(url)", f"{url}/graphql") == 9
    assert page.evaluate(SOCKET, f"{url}/graphql") == "refused"
    assert limits(url) == set()
    # The web UI itself may do all that; a link from elsewhere opens it.
    page.evaluate("url => { location.href = url; }", f"{url}/overview")
    page.get_by_text("Overview").first.wait_for()
    assert page.evaluate(OWN) == {"setConcurrencyLimit": True}
    assert limits(url) == {"own"}
    assert page.evaluate(SOCKET, f"{url}/graphql") == "open"


@pytest.mark.slow
def test_the_web_ui_asks_for_its_token(serve: Callable[..., str], page: Any) -> None:
    token = "sixteen characters"
    url = serve("pugc_dagster.guard", PUGC_UI_TOKEN=token)
    page.goto(f"{url}/overview")
    page.get_by_label("token").fill("not the one")
    page.get_by_role("button").click()
    page.get_by_text("That is not the token").wait_for()
    page.get_by_label("token").fill(token)
    page.get_by_role("button").click()
    page.get_by_text("Overview").first.wait_for()
    assert page.evaluate(OWN) == {"setConcurrencyLimit": True}
    assert page.evaluate(SOCKET, f"{url}/graphql") == "open"
    assert limits(url, token) == {"own"}
