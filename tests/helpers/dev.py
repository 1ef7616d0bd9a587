"""`dagster dev` or `pugc ui` as a person starts it: in the project's folder, with DAGSTER_HOME unset."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def dagster_dev(
    project: Path, port: int = 0, stop: int = signal.SIGTERM, command: Sequence[str] = ("dagster", "dev")
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Gives a function that asks GraphQL. At the end the whole group of processes gets the signal `stop`."""
    port = port or free_port()
    env = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "PUGC_DATA", "PUGC_RECIPES")}
    log = (project / "dev.log").open("wb")
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name(command[0])), *command[1:], "-p", str(port)],
        cwd=project,
        env=env,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    def ask(query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found
        data: dict[str, Any] = found["data"]
        return data

    try:
        deadline = time.time() + 120
        while True:
            try:
                ask("{ version }")
                break
            except OSError:
                assert process.poll() is None, (project / "dev.log").read_text()
                assert time.time() < deadline, (project / "dev.log").read_text()
                time.sleep(0.5)
        yield ask
    finally:
        os.killpg(process.pid, stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
