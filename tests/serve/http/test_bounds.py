"""What a server takes at most: requests, bytes, time, heads; and from whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.http.running import Raw, Running, running
from tests.tiny import wait_until

TOKEN = "a-token-of-some-length"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def small(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two requests at most, of 10 kB and two seconds."""
    with running(
        model_dir, tmp_path_factory.mktemp("small"), "--queue", "2", "--max-bytes", "10KB", "--time-limit", "2"
    ) as found:
        yield found


def test_what_is_too_much_is_refused_before_its_body(small: Running, request_body: dict[str, Any]) -> None:
    refused = small.metric('ple_rec_refused_total{reason="queue"}')
    with Raw(small.port) as first, Raw(small.port) as second, Raw(small.port) as third:
        for raw in (first, second):
            raw.head("POST", "/v1/rank", 100)
            raw.send(b"{")
        assert wait_until(lambda: small.metric("ple_rec_taken_requests") == 2, 1)
        third.head("POST", "/v1/rank", 5000)  # and not a byte of the body
        answer = third.answer()
        assert (answer.status, answer.field) == (503, "queue")
        assert int(answer.headers["Retry-After"]) >= 1
        assert small.get("/readyz").status == 200  # what is no request of the model is answered
    assert small.metric('ple_rec_refused_total{reason="queue"}') == refused + 1
    assert wait_until(lambda: small.metric("ple_rec_taken_requests") == 0, 1)
    assert small.post("/v1/rank", request_body).status == 200


def test_what_would_wait_too_long_is_refused(model_dir: Path, tmp_path: Path, request_body: dict[str, Any]) -> None:
    with running(model_dir, tmp_path, "--max-wait", "0.000001") as server:
        with Raw(server.port) as first, Raw(server.port) as second, Raw(server.port) as third:
            for raw in (first, second, third):
                raw.head("POST", "/v1/rank", 100)
            assert wait_until(lambda: server.metric("ple_rec_taken_requests") == 3, 1)  # nothing is expected yet
        assert wait_until(lambda: server.metric("ple_rec_taken_requests") == 0, 1)
        assert server.post("/v1/rank", request_body).status == 200
        with Raw(server.port) as first, Raw(server.port) as second, Raw(server.port) as third:
            for raw in (first, second):  # which are always taken
                raw.head("POST", "/v1/rank", 100)
            assert wait_until(lambda: server.metric("ple_rec_taken_requests") == 2, 1)
            third.head("POST", "/v1/rank", 5000)
            answer = third.answer()
            assert (answer.status, answer.field) == (503, "queue")
            assert "more than" in answer.json()["error"]["message"]
            assert int(answer.headers["Retry-After"]) == 1


def test_a_refused_connection_goes_on(small: Running) -> None:
    """What is left of the body is dropped; the next request on the connection is answered."""
    with Raw(small.port) as raw:
        raw.head("POST", "/v1/rank", 4_000_000)
        assert raw.answer().status == 413
        raw.send(b"x" * 4_000_000)
        raw.head("GET", "/healthz")
        assert raw.answer().status == 200


def test_slow_bodies_give_way_and_then_end(small: Running, request_body: dict[str, Any]) -> None:
    with Raw(small.port) as first, Raw(small.port) as second:
        for raw in (first, second):
            raw.head("POST", "/v1/rank", 100)
        assert wait_until(lambda: small.metric("ple_rec_taken_requests") == 2, 1)
        assert wait_until(lambda: small.post("/v1/rank", request_body).status == 200, 3)
        answer = first.answer()
        assert (answer.status, answer.field) == (408, "body")
        assert second.answer().status == 408  # by its time limit
    assert small.metric("ple_rec_taken_requests") == 0


def test_a_body_of_chunks_is_bounded_too(small: Running) -> None:
    with Raw(small.port) as raw:
        raw.head("POST", "/v1/rank", None, Content_Type="application/json", Transfer_Encoding="chunked")
        for _ in range(11):
            raw.send(b"400\r\n" + b" " * 1024 + b"\r\n")
        answer = raw.answer()
    assert (answer.status, answer.field) == (413, "body")


def test_a_head_is_bounded(small: Running) -> None:
    with Raw(small.port) as raw:
        raw.send(b"GET / HTTP/1.1\r\n")
        for _ in range(80):
            raw.send(b"X: " + b"x" * 1000 + b"\r\n")
        assert b" 431 " in raw.socket.recv(100)
        assert raw.ended()
    with Raw(small.port) as raw:
        raw.send(b"\x00\x01\x02 no HTTP\r\n\r\n")
        assert b" 400 " in raw.socket.recv(100)
        assert raw.ended()
    assert small.get("/healthz").status == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": TOKEN}])
def test_the_token_is_asked_for(secured: Running, headers: dict[str, str]) -> None:
    for path in ("/v1/model", "/metrics", "/openapi.json", "/docs", "/nowhere"):
        answer = secured.get(path, **headers)
        assert (answer.status, answer.field) == (401, "Authorization")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    answer = secured.post("/v1/rank", b"{", **headers)
    assert (answer.status, answer.field) == (401, "Authorization")


def test_the_token_opens(secured: Running, request_body: dict[str, Any]) -> None:
    assert secured.post("/v1/rank", request_body, **AUTHORISED).status == 200
    assert secured.get("/openapi.json", **AUTHORISED).json()["components"]["securitySchemes"]
    for path in ("/healthz", "/readyz"):
        assert secured.get(path).status == 200


@pytest.fixture(scope="module")
def secured(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("secured")
    (folder / "token").write_text(f"{TOKEN}\n")
    with running(model_dir, folder, "--token-file", str(folder / "token")) as found:
        yield found
