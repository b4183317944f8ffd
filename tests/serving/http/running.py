"""A real server, `ple-rec serve`, in a process of its own; and requests byte by byte."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ple_rec.cli import main
from ple_rec.serving.http import server as server_module
from ple_rec.storage import Location
from tests.rank_processes import fork_server

_START_SECONDS = 60


@dataclass
class Running:
    """A server that listens.

    Args:
        process: It.
        port: Where.
        log: What it has written.
    """

    process: BaseProcess
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def code(self, seconds: float = 10) -> int | None:
        """Exit code, once it has ended."""
        self.process.join(seconds)
        return self.process.exitcode

    def get(self, path: str, **headers: str) -> Answer:
        with Raw(self.port) as raw:
            raw.head("GET", path, None, **headers)
            return raw.answer()

    def post(self, path: str, document: object, **headers: str) -> Answer:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        with Raw(self.port) as raw:
            raw.head("POST", path, len(body), **headers)
            raw.send(body)
            return raw.answer()

    def metric(self, name: str) -> float:
        """A line of /metrics."""
        lines = self.get("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])

    def said(self, text: str, seconds: float = 10) -> bool:
        """Whether its log holds the text, now or soon."""
        end = time.monotonic() + seconds
        while text not in self.log.read_text():
            if time.monotonic() > end or self.process.exitcode is not None:
                return text in self.log.read_text()
            time.sleep(0.02)
        return True


class Answer(NamedTuple):
    """Of HTTP."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def field(self) -> str:
        """That an error names."""
        error = self.json()["error"]
        assert list(error) == ["field", "value", "message"]
        assert error["message"]
        return str(error["field"])


class Raw:
    """A connection on which a test sends what it likes."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        if receive_buffer is None:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
            return
        self.socket = socket.socket()  # a buffer has to be small before it connects
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        with suppress(ConnectionError):  # closed by the server, which may have answered
            self.socket.sendall(data)

    def head(self, method: str, path: str, length: int | None = None, **headers: str) -> None:
        """The lines before a body; JSON where it has a length."""
        given = {"Host": "localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if length is not None:
            given = {"Content-Type": "application/json", "Content-Length": str(length)} | given
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        self.send("\r\n".join(lines).encode())

    def answer(self) -> Answer:
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return Answer(response.status, response.headers, response.read())

    def ended(self) -> bool:
        """Whether the server closes it; what it still sends is passed over."""
        with suppress(ConnectionError):
            while self.socket.recv(4096):
                pass
        return True


@contextmanager
def running(model_dir: Location, folder: Path, *flags: str, linger: int | None = None) -> Iterator[Running]:
    """`ple-rec serve MODEL_DIR --port 0` in a process of its own; ended at last if the test has not.

    Args:
        model_dir: Model that is served.
        folder: Folder of its log.
        flags: Further flags.
        linger: Seconds that it waits at its end for clients that do not read their answers; None: those of users.
    """
    log = folder / f"serve-{time.monotonic_ns()}.log"
    argv = ["serve", str(model_dir), "--port", "0", "--threads", "1", *flags]
    process = fork_server().Process(target=_serve, args=(argv, log, sys.path, dict(os.environ), linger))
    process.start()
    server = Running(process, 0, log)
    try:
        end = time.monotonic() + _START_SECONDS
        while " at http://" not in (text := log.read_text() if log.exists() else ""):
            assert process.exitcode is None, text
            assert time.monotonic() < end, text
            time.sleep(0.01)
        server.port = int(text.split(" at http://", 1)[1].split("\n")[0].rpartition(":")[2])
        yield server
    finally:
        process.kill()
        process.join()


def export(run: Path, model_dir: Path) -> None:
    """Another version, whose requests have one `user`."""
    assert main(["export", str(run), "--out", str(model_dir), "--user-features", "user", "--examples", "24"]) == 0


def _serve(argv: list[str], log: Path, path: list[str], environment: dict[str, str], linger: int | None) -> None:
    if linger is not None:
        vars(server_module)["_LINGER_SECONDS"] = linger
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.path[:] = path
    os.environ.update(environment)
    os._exit(main(argv))
