"""What a server takes at most: requests, bytes, time; and from whom."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ple_rec.serving.http.access import AccessMiddleware
from ple_rec.serving.http.admission import Admission
from ple_rec.serving.http.errors import RefusedError
from ple_rec.serving.http.metrics import ServerMetrics
from ple_rec.serving.http.options import ServerOptions
from tests.serving.http.running import Raw, Running, running
from tests.serving.http.test_api import many
from tests.tiny import wait_until

JSON = b"application/json"
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


@pytest.mark.parametrize("max_wait", [1.0, 3.0])
def test_what_would_wait_too_long_is_refused_before_its_body(tmp_path: Path, max_wait: float) -> None:
    """Of requests that take a second each, as many wait as take no longer in all, and two whatever they take."""

    async def run() -> None:
        finish = asyncio.Event()
        admission = Admission(ServerOptions(tmp_path, max_wait=max_wait, time_limit=60), lambda: 1.0)
        slow = [asyncio.create_task(_send(admission, None, finish)) for _ in range(5)]  # of which the model has nothing
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(_send(admission, b"{}", finish)) for _ in range(8)]
        while sum(task.done() for task in waiting) + admission.admitted < 13:
            await asyncio.sleep(0)
        taken = 4 if max_wait == 3.0 else 2
        assert admission.admitted == 5 + taken
        refused = await asyncio.gather(*(task for task in waiting if task.done()))
        assert refused == [(503, 0)] * (8 - taken)
        finish.set()
        done = await asyncio.gather(*waiting)
        assert [status for status, _ in done].count(200) == taken
        assert await _send(admission, b"{}", finish) == (200, 1)
        for task in slow:
            task.cancel()

    asyncio.run(run())


def test_a_body_is_in_memory_once_while_it_is_answered(tmp_path: Path) -> None:
    pieces = 64

    async def run() -> int:
        left = pieces

        async def receive() -> Message:
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": bytes(1 << 16), "more_body": left > 0}

        admission = Admission(ServerOptions(tmp_path), lambda: 0.0)
        request = Request({"type": "http", "headers": [(b"content-type", JSON)]}, receive)
        tracemalloc.start()
        try:
            async with admission.admit(request) as body:
                assert len(body) == pieces << 16
                return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert asyncio.run(run()) < 1.5 * (pieces << 16)


async def _send(admission: Admission, body: bytes | None, finish: asyncio.Event) -> tuple[int, int]:
    """Return the status of a request, and how often its body was read; without a body none ever comes.

    Args:
        admission: Admission of the request.
        body: Body of the request.
        finish: Event at which it is answered.
    """
    reads = 0

    async def receive() -> Message:
        nonlocal reads
        reads += 1
        if body is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with admission.admit(Request({"type": "http", "headers": [(b"content-type", JSON)]}, receive)):
            await finish.wait()
    except RefusedError as error:
        return error.status, reads
    return 200, reads


def test_slow_bodies_do_not_keep_others_from_an_idle_model(
    model_dir: Path, tmp_path: Path, request_body: dict[str, Any]
) -> None:
    with running(model_dir, tmp_path, "--max-wait", "0") as server, ExitStack() as stack:
        assert server.post("/v1/rank", request_body).status == 200
        for _ in range(5):
            stack.enter_context(Raw(server.port)).head("POST", "/v1/rank", 100)
        assert wait_until(lambda: server.metric("ple_rec_taken_requests") == 5, 1)
        assert server.post("/v1/rank", request_body).status == 200


def _pour(raw: Raw, body: bytes, times: int) -> None:
    """Requests one after the other, whose answers are not read."""
    with suppress(OSError):  # the server's end, or the test's
        for _ in range(times):
            raw.head("POST", "/v1/rank", len(body))
            raw.socket.sendall(body)


def test_answers_that_nobody_reads_keep_neither_others_out_nor_the_server_from_its_end(
    model_dir: Path, tmp_path: Path, request_body: dict[str, Any]
) -> None:
    body = json.dumps(many(request_body, 2000)).encode()
    with running(model_dir, tmp_path, "--queue", "2", linger=1) as server, ExitStack() as stack:
        for _ in range(2):
            raw = stack.enter_context(Raw(server.port, receive_buffer=4096))
            threading.Thread(target=_pour, args=(raw, body, 20), daemon=True).start()
        assert wait_until(lambda: server.metric("ple_rec_rows_total") >= 2 * 2000, 10)
        assert wait_until(lambda: server.metric("ple_rec_taken_requests") == 0, 10)
        assert wait_until(lambda: server.post("/v1/rank", request_body).status == 200, 10)
        server.signal(signal.SIGTERM)
        assert server.code(15) == 0


def test_a_refused_connection_goes_on(small: Running) -> None:
    """What is left of the body is dropped; the next request on the connection is answered."""
    with Raw(small.port) as raw:
        raw.head("POST", "/v1/rank", 4_000_000)
        assert raw.answer().status == 413
        raw.send(b"x" * 4_000_000)
        raw.head("GET", "/healthz")
        assert raw.answer().status == 200


def test_a_body_that_does_not_come_ends(small: Running) -> None:
    with Raw(small.port) as raw:
        raw.head("POST", "/v1/rank", 100)
        answer = raw.answer()
    assert (answer.status, answer.field) == (408, "body")
    assert wait_until(lambda: small.metric("ple_rec_taken_requests") == 0, 1)


def test_a_body_of_chunks_is_bounded_too(small: Running) -> None:
    with Raw(small.port) as raw:
        raw.head("POST", "/v1/rank", None, Content_Type="application/json", Transfer_Encoding="chunked")
        for _ in range(11):
            raw.send(b"400\r\n" + b" " * 1024 + b"\r\n")
        answer = raw.answer()
    assert (answer.status, answer.field) == (413, "body")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": TOKEN}])
def test_the_token_is_asked_for(secured: Running, headers: dict[str, str]) -> None:
    for path in ("/v1/model", "/metrics", "/openapi.json", "/nowhere"):
        answer = secured.get(path, **headers)
        assert (answer.status, answer.field) == (401, "Authorization")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    answer = secured.post("/v1/rank", b"{", **headers)
    assert (answer.status, answer.field) == (401, "Authorization")


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "Bearer  "])
def test_the_name_of_a_scheme_is_of_any_case(secured: Running, scheme: str) -> None:
    assert secured.get("/v1/model", Authorization=scheme + TOKEN).status == 200
    assert secured.get("/v1/model", Authorization=scheme + TOKEN + "x").status == 401


def test_the_token_opens(secured: Running, request_body: dict[str, Any]) -> None:
    assert secured.post("/v1/rank", request_body, **AUTHORISED).status == 200
    document = secured.get("/openapi.json", **AUTHORISED).json()
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"token": []}]
    assert all("401" in of["responses"] for methods in document["paths"].values() for of in methods.values())
    for path in ("/healthz", "/readyz"):
        assert secured.get(path).status == 200


NAMES = ["localhost", "LocalHost:8000", "127.0.0.1", "127.8.9.10:1", "[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]:8000"]
OTHERS = [
    *("", "x", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example/localhost"),
    *(
        "10.0.0.1",
        "169.254.169.254",
        "[::2]:8000",
        "[::1",
        "::1",
        "0x7f.1",
        "localhost:8000:1",
        "localhost@evil.example",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_this_machine_has_several_names(server: Running, name: str) -> None:
    assert server.get("/v1/model", Host=name).status == 200


@pytest.mark.parametrize("name", OTHERS)
def test_a_name_that_may_be_of_another_site_is_refused(
    server: Running, request_body: dict[str, Any], name: str
) -> None:
    refused = server.metric('ple_rec_refused_total{reason="host"}')
    answer = server.get("/v1/examples/0", Host=name)
    assert (answer.status, answer.field) == (421, "Host")
    error = answer.json()["error"]
    assert error["value"] == name
    assert "the Host must be localhost, a loopback address or the value of --host" in error["message"]
    assert "--token-file FILE or --no-token" in error["message"]
    assert server.post("/v1/rank", b"{", Host=name).status == 421
    for path in ("/", "/healthz", "/metrics", "/openapi.json", "/nowhere"):
        assert server.get(path, Host=name).status == 421
    assert server.metric('ple_rec_refused_total{reason="host"}') == refused + 7
    assert "421" in server.get("/openapi.json").json()["paths"]["/v1/rank"]["post"]["responses"]


def test_a_client_of_old_names_no_host(server: Running) -> None:
    with Raw(server.port) as raw:
        raw.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert raw.answer().status == 200


def test_a_token_stands_for_the_name(secured: Running) -> None:
    assert secured.get("/v1/model", Host="feed.example", **AUTHORISED).status == 200
    assert secured.get("/readyz", Host="feed.example").status == 200
    assert "421" not in secured.get("/openapi.json", **AUTHORISED).json()["paths"]["/v1/rank"]["post"]["responses"]


@pytest.mark.parametrize(
    ("options", "status"),
    [({}, 421), ({"no_token": True}, 200), ({"token": TOKEN}, 200), ({"host": "Feed.example"}, 200)],
)
def test_who_was_named_at_the_start_is_answered(tmp_path: Path, options: dict[str, Any], status: int) -> None:
    async def routes(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("here")(scope, receive, send)

    found = list[int]()

    async def send(message: Message) -> None:
        found.append(message.get("status", 0))

    async def receive() -> Message:
        return {"type": "http.request"}

    access = AccessMiddleware(routes, ServerOptions(tmp_path, **options), ServerMetrics())
    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [(b"host", b"feed.example:80")]}
    asyncio.run(access(scope, receive, send))
    assert found[0] == status


@pytest.fixture(scope="module")
def secured(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("secured")
    (folder / "token").write_text(f"{TOKEN}\n")
    with running(model_dir, folder, "--token-file", str(folder / "token")) as found:
        yield found


@pytest.mark.parametrize("together", [True, False])
def test_an_offer_of_another_protocol_is_ignored(server: Running, request_body: dict[str, Any], together: bool) -> None:
    """As Java's HttpClient and `curl --http2` make it (RFC 9110, 7.8)."""
    body = json.dumps(request_body).encode()
    head = f"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n"
    head += "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    with Raw(server.port) as raw:
        for part in [head.encode() + body] if together else [head.encode(), body]:
            raw.send(part)
            time.sleep(0 if together else 0.05)
        assert raw.answer().status == 200
        raw.head("GET", "/healthz")
        assert raw.answer().status == 200


def test_a_head_is_bounded(small: Running) -> None:
    with Raw(small.port) as raw, suppress(OSError):
        raw.send(b"GET / HTTP/1.1\r\n")
        for _ in range(80):
            raw.send(b"X: " + b"x" * 1000 + b"\r\n")
        assert b" 400 " in raw.socket.recv(100)
    assert small.get("/healthz").status == 200
