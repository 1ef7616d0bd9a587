"""Places to store things: a local folder, fsspec's memory file system, and S3 as moto plays it on loopback."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

BUCKET = "pugc-tests"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a moto server with an empty bucket, as the environment names it while the session runs."""
    s3fs = pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        s3_environment(patch, endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
    yield endpoint
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def s3_environment(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        patch.setenv(name, "127.0.0.1")


@pytest.fixture
def s3_root(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place on S3. fsspec caches its drivers by their arguments, so the environment's are made anew."""
    s3_environment(monkeypatch, s3_endpoint)
    driver = fsspec.get_filesystem_class("s3")
    driver.clear_instance_cache()
    yield f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}"
    driver.clear_instance_cache()


@pytest.fixture
def memory_root() -> Iterator[str]:
    """An empty place in memory."""
    root = f"memory://{uuid.uuid4().hex[:8]}"
    yield root
    fs = fsspec.filesystem("memory")
    inner = fs._strip_protocol(root)
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, once of each kind."""
    if request.param == "local":
        return str(tmp_path / "data")
    return str(request.getfixturevalue(f"{request.param}_root"))
