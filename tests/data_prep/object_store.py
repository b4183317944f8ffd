"""A real server that speaks S3, for tests of what reads from an object store."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources.remote import filesystem

SECONDS = 60


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def object_store(bucket: str) -> Iterator[str]:
    """The endpoint of a store with one empty bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(SECONDS * 10):
            assert server.poll() is None
            try:
                with urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")):
                    break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(SECONDS)


def use_store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name the store."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def put(key: str, content: bytes) -> None:
    """Write an object."""
    with filesystem().open_output_stream(key) as out:
        out.write(content)


def put_table(key: str, table: pa.Table) -> None:
    """Write an object that is a Parquet file."""
    pq.write_table(table, key, filesystem=filesystem())


def put_folder(folder: Path, bucket: str) -> None:
    """Write every file below a folder as an object."""
    for path in folder.rglob("*"):
        if path.is_file():
            put(f"{bucket}/{path.relative_to(folder)}", path.read_bytes())
