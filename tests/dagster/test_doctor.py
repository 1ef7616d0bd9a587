"""`pugc doctor` asks the servers that a recipe names."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pugc_dagster.cli import main
from pugc_dagster.terminal import doctor


class Server(http.server.BaseHTTPRequestHandler):
    """Has one model, for those with the key; `/odd` is no model server, `/away` sends elsewhere."""

    keys: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        key = self.headers.get("Authorization", "")
        self.keys.append(key)
        status = 200 if key in ("Bearer sesame", "Basic YW5uOnNl") else 401
        body = json.dumps({"data": [{"id": "judge"}]}) if self.path == "/v1/models" else "<html>"
        self.send_response(302 if self.path.startswith("/away") else status)
        self.send_header("Location", "/v1/models")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Server.keys = []
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_servers_of_a_recipe_are_asked(url: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(*urls: str, served: str = "judge") -> dict[str, str]:
        (project / "recipes" / "mine.toml").write_text(
            f'extends = "scripted"\n[models.judge]\nid = "{served}"\nbase_urls = {list(urls)}\n'
            'api_key_env = "JUDGE_KEY"\n[roles]\nreward_judge = "judge"\nquality_judge = "judge"\n'
        )
        result = CliRunner().invoke(main, ["doctor", "--recipe", "mine", "--json"])
        found = {f["what"]: f for f in json.loads(result.output)}
        assert found["quality_judge"] == found["reward_judge"] | {"what": "quality_judge"}
        assert result.exit_code == (0 if found["reward_judge"]["ok"] else 1)
        said: dict[str, str] = found["reward_judge"]
        return said

    monkeypatch.setattr(doctor, "_PATIENCE", 2.0)
    monkeypatch.setenv("JUDGE_KEY", "wrong")
    for key, words in (("wrong", "is not accepted"), ("", "is not set")):
        monkeypatch.setenv("JUDGE_KEY", key)
        said = judge(url)
        assert f"{url}/v1 answers 401" in said["state"]
        assert words in said["fix"]
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    Server.keys.clear()
    assert f"served by {url}, {url}/v1/" in judge(url, f"{url}/v1/")["state"]
    assert Server.keys == ["Bearer sesame"] * 2, "once for each server, however many roles it plays"
    cases = {
        f"{url}/odd": "not as an OpenAI-compatible server",
        f"{url}/away": "answers 302",
        "http://127.0.0.1:1/v1": "does not answer",
        "file:///etc": "is no base URL",
    }
    for base, words in cases.items():
        assert words in judge(url, base)["state"]
    assert "has no other, but judge" in judge(url, served="other")["state"]
    said = judge(url.replace("//", "//ann:se@"))
    assert "ann" not in said["state"]
    assert f"served by {url}" in said["state"]
    assert doctor._bare("http://ann:se@host/v1?key=se#cret") == "http://host/v1"
