"""A real server that speaks S3, for tests of what reads from an object store."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from ple_rec.storage.client import arrow_client

SECONDS = 60
INFRA = Path(__file__).resolve().parent / "infra"
SERVER = Path(__file__).with_name("s3_server.py")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def s3_server(port: int) -> Iterator[str]:
    """The endpoint of a server without buckets."""
    command = [sys.executable, "-P", str(SERVER), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(SECONDS * 10):
            assert server.poll() is None
            try:
                remove_buckets(url)
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(SECONDS)


def remove_buckets(url: str) -> None:
    """Remove all buckets of a server with their objects."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")):
        pass


def create_bucket(url: str, bucket: str) -> None:
    """Create a bucket on a server."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")):
        pass


@contextmanager
def object_store(bucket: str, port: int | None = None) -> Iterator[str]:
    """The endpoint of a server of the caller's own with one empty bucket, at a free port unless one is named."""
    with s3_server(port or free_port()) as url:
        create_bucket(url, bucket)
        yield url


@contextmanager
def s3_store(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The environment that names a server with an empty bucket.

    Args:
        request: Of a fixture with the parameter `moto`, the server of the session, or `ceph`, whose gateway is a real
            one.
    """
    if request.param == "moto":
        url = request.getfixturevalue("moto")
        remove_buckets(url)  # Those of another module: a listing in moto looks at every object of a bucket.
        create_bucket(url, "bucket")
        yield {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("Ceph's daemons need root, and apt-get where they are not installed")
    up = subprocess.run([INFRA / "ceph-s3-up.sh"], capture_output=True, text=True, check=False, timeout=600)
    if up.returncode:
        pytest.skip(f"Ceph does not come up: {(up.stderr.strip().splitlines() or ['?'])[-1]}")
    try:
        said = up.stdout.strip().splitlines()[-1].removeprefix("export ")
        found = dict(pair.split("=", 1) for pair in said.split())
        boto3.client(
            "s3",
            endpoint_url=found["AWS_ENDPOINT_URL"],
            aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        ).create_bucket(Bucket="bucket")
        yield found
    finally:
        subprocess.run([INFRA / "ceph-s3-down.sh"], check=True)


def use_store(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name the store."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    S3FileSystem.clear_instance_cache()  # of another endpoint


@contextmanager
def answering(status: int) -> Iterator[str]:
    """The endpoint of a server that has one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Gate(ThreadingHTTPServer):
    """A server between clients and a store, which lets some uploads through and then breaks every connection.

    Attributes:
        left: Number of PUTs that still pass; None for all.
        uploaded: Paths of the objects of PUTs that have passed.
    """

    daemon_threads = True

    def __init__(self, store: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.store = store.removeprefix("http://")
        self.left: int | None = None
        self.uploaded: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def passes(self, method: str, path: str) -> bool:
        """Count a request, and say whether it may pass."""
        if self.left == 0:
            return False
        if method == "PUT":
            self.uploaded.append(path)
            self.left = None if self.left is None else self.left - 1
        return True


class _Passage(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size or not self.server.passes(self.command, self.path.partition("?")[0]):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        store = HTTPConnection(self.server.store)
        store.request(self.command, self.path, body, dict(self.headers))
        answer = store.getresponse()
        content = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)
        store.close()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def gate_to(store: str) -> Iterator[Gate]:
    """A `Gate` to the store of an endpoint."""
    gate = Gate(store)
    Thread(target=gate.serve_forever, daemon=True).start()
    yield gate
    gate.shutdown()
    gate.server_close()


@contextmanager
def refusing(store: str, after: int, key: str = "") -> Iterator[str]:
    """The endpoint of a server between clients and a store, which answers 403 after some requests.

    Args:
        store: Endpoint of the store.
        after: Number of requests that pass.
        key: Access key that is refused; empty for every one.
    """

    class Refusing(_Passage):
        def do_GET(self) -> None:
            nonlocal after
            if key in self.headers.get("Authorization", ""):
                after -= 1
                if after < 0:
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    body = b"<Error><Code>AccessDenied</Code><Message>Forbidden</Message></Error>"
                    self.send_response(403)
                    self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(body)))
                    self.end_headers()
                    self.wfile.write(b"" if self.command == "HEAD" else body)
                    return
            super().do_GET()

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    with gate_to(store) as gate:
        gate.RequestHandlerClass = Refusing
        yield gate.url


def put(key: str, content: bytes) -> None:
    """Write an object."""
    with arrow_client().open_output_stream(key) as out:
        out.write(content)


def put_table(key: str, table: pa.Table) -> None:
    """Write an object that is a Parquet file."""
    pq.write_table(table, key, filesystem=arrow_client())


def put_folder(folder: Path, bucket: str) -> None:
    """Write every file below a folder as an object."""
    for path in folder.rglob("*"):
        if path.is_file():
            put(f"{bucket}/{path.relative_to(folder)}", path.read_bytes())
