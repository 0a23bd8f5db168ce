"""Storage for the tests that want some: an S3 server of this process, a bucket of its own for each test."""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jax_party.store.storage import as_folder


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def start_s3(port: int) -> Any:
    """An S3 server of this process, which keeps what is on it as long as the process lives."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    # S3 checks a condition and writes in one step; moto does so only while it answers one request at a time.
    served: Any = server._server
    served.app = _one_at_a_time(served.app)
    return server


def _one_at_a_time(app: Any) -> Any:
    lock = threading.Lock()

    def answer(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            return list(app(environ, start_response))

    return answer


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server on loopback."""
    port = free_port()
    server = start_s3(port)
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty bucket, with the endpoint and credentials in the environment."""
    from jax_party.store.retry import PATIENCE_VARIABLE

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(PATIENCE_VARIABLE, "5")
    root = as_folder(f"s3://b{uuid.uuid4().hex}")
    root.fs.call_s3("create_bucket", Bucket=root.path.strip("/"))  # type: ignore[attr-defined]
    return root
