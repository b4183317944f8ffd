"""How a server ends, how it takes a new version, and what it does where it cannot begin."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from ple_rec.cli import main
from ple_rec.errors import UserError
from ple_rec.inference import program, remote_model
from ple_rec.inference.ranker import Ranker, latest_version
from ple_rec.serving.http import server as server_module
from ple_rec.serving.http.admission import Admission
from ple_rec.serving.http.binding import bind, listen
from ple_rec.serving.http.metrics import configure_log
from ple_rec.serving.http.options import ServerOptions
from ple_rec.serving.http.reload import load
from tests.inference.exported import set_latest
from tests.serving.http.running import Raw, Running, running
from tests.serving.http.test_api import many
from tests.tiny import wait_until


@pytest.fixture
def own(model_dir: Path, tmp_path: Path) -> Path:
    """A model directory that the test may change."""
    shutil.copytree(model_dir, tmp_path / "model")
    return tmp_path / "model"


def begun(server: Running, body: bytes) -> Raw:
    """A request that is taken, whose last byte has not been sent."""
    raw = Raw(server.port)
    raw.head("POST", "/v1/rank", len(body))
    raw.send(body[:-1])
    assert wait_until(lambda: server.metric("ple_rec_taken_requests") == 1, 2)
    return raw


def written(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_finished(model_dir: Path, tmp_path: Path, request_body: dict[str, Any], number: int) -> None:
    body = written(request_body)
    with running(model_dir, tmp_path) as server, begun(server, body) as raw:
        server.signal(number)
        assert wait_until(lambda: server.get("/readyz").status == 503, 2)
        assert server.get("/healthz").status == 200
        refused = server.post("/v1/rank", body)
        assert (refused.status, refused.field, refused.json()["error"]["value"]) == (503, "server", "stopping")
        assert refused.headers["Retry-After"] == "1"
        raw.send(body[-1:])
        assert raw.answer().status == 200
        assert server.code() == 0
        assert "Traceback" not in server.log.read_text()


def test_a_hang_up_before_there_is_a_model_ends_nothing(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(options: ServerOptions, bound: socket.socket) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr(server_module, "serve", serve)
    hang_up = signal.getsignal(signal.SIGHUP)
    try:
        assert main(["serve", str(model_dir), "--port", "0"]) == 0
    finally:
        signal.signal(signal.SIGHUP, hang_up)


def test_a_second_signal_ends_at_once(model_dir: Path, tmp_path: Path, request_body: dict[str, Any]) -> None:
    with running(model_dir, tmp_path) as server, begun(server, written(request_body)) as raw:
        server.signal(signal.SIGTERM)
        assert wait_until(lambda: server.get("/readyz").status == 503, 2)
        server.signal(signal.SIGTERM)
        assert server.code(1) == 128 + signal.SIGTERM
        assert raw.ended()


def test_a_signal_before_there_is_a_loop_stops_it(tmp_path: Path) -> None:
    options = ServerOptions(tmp_path, port=0)

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    server = server_module.Server(nothing, Admission(options, lambda: 0.0), options, lambda: None)
    hang_up = signal.getsignal(signal.SIGHUP)
    try:
        server.handle_exit(signal.SIGTERM, None)
        with bind(options.host, options.port) as bound:
            asyncio.run(asyncio.wait_for(server.serve(sockets=[bound]), 5))
    finally:
        signal.signal(signal.SIGHUP, hang_up)
    assert server.should_exit


@contextmanager
def asking(server: Running, body: dict[str, Any], clients: int = 2) -> Iterator[list[tuple[int, str]]]:
    """Requests one after the other by several clients, meanwhile; statuses and versions of their answers."""
    found, stop = list[tuple[int, str]](), threading.Event()

    def client() -> None:
        content = written(body)
        with Raw(server.port) as raw:
            while not stop.is_set():
                raw.head("POST", "/v1/rank", len(content))
                raw.send(content)
                answer = raw.answer()
                found.append((answer.status, str(answer.json().get("version"))))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_a_new_version_is_taken_without_a_lost_request(own: Path, tmp_path: Path, request_body: dict[str, Any]) -> None:
    with running(own, tmp_path) as server, asking(server, many(request_body, 50)) as found:
        shutil.copytree(own / "versions" / "v1", own / "versions" / "v2")
        set_latest(own, "v2")
        assert server.said("event=reload version=v2")
        assert wait_until(lambda: found[-1][1] == "v2", 5)
        broken = own / "versions" / "v3"
        shutil.copytree(own / "versions" / "v2", broken)
        table = next(file for file in sorted((broken / "tables").iterdir()) if file.stat().st_size > 8)
        content = bytearray(table.read_bytes())
        content[-1] ^= 1
        table.write_bytes(content)
        (own / "latest").write_text("v3\n")
        server.signal(signal.SIGHUP)  # looks now
        assert server.said("event=reload_refused")
        assert table.name in server.log.read_text()
        count = len(found)
        assert wait_until(lambda: len(found) > count + 10, 5)
        assert server.metric('ple_rec_reloads_total{outcome="refused"}') == 1
        server.signal(signal.SIGHUP)  # looks again
        assert wait_until(lambda: server.metric('ple_rec_reloads_total{outcome="refused"}') == 2, 5)
        assert server.metric('ple_rec_reloads_total{outcome="loaded"}') == 1
    assert {status for status, _ in found} == {200}
    versions = [version for _, version in found]
    assert set(versions) == {"v1", "v2"}
    assert versions[-1] == "v2"


def test_a_version_that_comes_while_the_first_is_loaded_is_taken(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = list[str]()

    def slow(version: Path, threads: int) -> Ranker:
        shutil.copytree(version, own / "versions" / "v2")
        set_latest(own, "v2")
        return load(version, threads)

    class Brief:
        """A server that ends once it has told of a new version."""

        def __init__(
            self, app: ASGIApp, admission: Admission, options: ServerOptions, reload: Callable[[], None]
        ) -> None:
            self.reload = reload

        def run(self, sockets: list[socket.socket]) -> None:
            self.reload()  # as SIGHUP does
            assert wait_until(self.has_told, 10)

        def has_told(self) -> bool:
            told.append(capsys.readouterr().err)
            return "event=reload version=v2" in "".join(told)

    monkeypatch.setattr(server_module, "load", slow)
    monkeypatch.setattr(server_module, "Server", Brief)
    with bind("127.0.0.1", 0) as bound:
        assert server_module.serve(ServerOptions(own, port=0, threads=1), bound) == 0
    assert "event=reload version=v2" in "".join(told)


@pytest.mark.parametrize(
    ("asked", "took", "told"),
    [
        ("fp32", 1.0, ""),
        ("bf16", 1.0, ""),
        ("bf16", 9.0, "event=bf16_is_slow version=v1 fp32_ms=2 bf16_ms=9\n"),
        ("auto", 1.0, "event=dense version=v1 used=bf16 fp32_ms=2 bf16_ms=1\n"),
        ("auto", 1.9, "event=dense version=v1 used=fp32 fp32_ms=2 bf16_ms=1.9\n"),
    ],
)
def test_the_precision_that_is_used_is_told(
    feed_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    took: float,
    told: str,
) -> None:
    version = shutil.copytree(latest_version(feed_model), tmp_path / "v1")
    model = json.loads((version / "model.json").read_text())
    (version / "model.json").write_text(json.dumps(model | {"dense": {"precision": asked}}))
    monkeypatch.setattr(remote_model, "check_version", lambda _: None)
    monkeypatch.setattr(program, "_TIMES_BY_ARCHITECTURE", {})
    monkeypatch.setattr(program, "_time_requests", lambda _: {"fp32": 2.0, "bf16": took})
    configure_log()
    load(version, 1)
    said = capsys.readouterr().err
    assert said.endswith(told) if told else not said


def test_files_that_are_cut_short_under_a_server_change_no_answer(
    own: Path, tmp_path: Path, request_body: dict[str, Any]
) -> None:
    """As `rsync --inplace` does; a mapped file would end the process by SIGBUS."""
    with running(own, tmp_path) as server:
        unknown = {"user": {"user": "nobody knows"}, "items": request_body["items"]}
        before = [server.post("/v1/rank", body).json() for body in (request_body, unknown)]
        files = [file for file in (own / "versions" / "v1").rglob("*") if file.is_file()]
        assert {".fp32", ".i4", ".i8"} <= {file.suffix for file in files}  # tables, and indices of vocabularies
        for file in files:
            os.truncate(file, 0)
        assert [server.post("/v1/rank", body).json() for body in (request_body, unknown)] == before
        assert server.get("/healthz").status == 200
        assert server.process.exitcode is None
    assert main(["serve", str(own), "--port", "0"]) == 3  # the next server refuses what is not as it was exported


@pytest.mark.parametrize(("soft", "hard"), [(1024, 4096), (4096, 4096)])
def test_as_many_files_may_be_open_as_the_user_is_allowed(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: found.append(limits))
    server_module._allow_open_files()
    assert found == [(hard, hard)]


def test_clients_that_go_do_not_matter(model_dir: Path, tmp_path: Path, request_body: dict[str, Any]) -> None:
    body = written(many(request_body, 2000))
    with running(model_dir, tmp_path) as server:
        raws = [Raw(server.port) for _ in range(8)]
        for raw in raws:
            raw.head("POST", "/v1/rank", len(body))
            raw.send(body)
        assert wait_until(lambda: server.metric("ple_rec_taken_requests") > 0, 5)
        for raw in raws:
            raw.socket.close()
        assert wait_until(lambda: server.metric("ple_rec_taken_requests") == 0, 5)
        assert server.metric("ple_rec_clients_gone_total") > 0
        assert server.post("/v1/rank", request_body).status == 200
        assert "level=error" not in server.log.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], '--host: got "0.0.0.0"; other machines reach this address'),
        (
            ["--host", "no.such.host.invalid"],
            '--host: got "no.such.host.invalid"; it must be an address of this machine',
        ),
        (["--token-file", "none"], "it holds the token as text. Fix: openssl rand -hex 32 > none\n"),
        (["--token-file", "empty"], "16 ASCII characters or more. Fix: openssl rand -hex 32 > empty\n"),
        (
            ["--token-file", "short"],
            "Fix: give a file that holds one word of 16 characters or more, and nothing else\n",
        ),
        (["--token-file", "."], "--token-file: . cannot be read"),
        (["--port", "ADMITTED"], "cannot be bound"),
    ],
)
def test_a_server_that_cannot_begin_says_why(
    model_dir: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "empty").write_text("\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = [port if flag == "ADMITTED" else flag for flag in flags]
        assert main(["serve", str(model_dir), *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_found_before_torch_is_imported(tmp_path: Path) -> None:
    code = "import sys; from ple_rec.cli import main; sys.exit(main(sys.argv[1:]) + 10 * ('torch' in sys.modules))"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", code, "serve", str(tmp_path), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2, done.stderr
    assert f"--host, --port: 127.0.0.1:{port} cannot be bound" in done.stderr


def test_a_port_is_refused_until_there_is_a_model_and_then_one_server_has_it() -> None:
    with bind("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)
        with bind("127.0.0.1", port) as other:
            listen(one)
            socket.create_connection(("127.0.0.1", port), 1).close()
            with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be bound"):
                listen(other)


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path)]) in (2, 3)
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("port", ["abc", "-1", "65536"])
def test_a_port_is_one(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "models/none", f"--port={port}"]) == 2
    assert f"--port: got '{port}'; expected a port, 0 to 65535; 0 for any free port" in capsys.readouterr().err
