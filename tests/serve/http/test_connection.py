"""Connections against clients that drip, flood, and offer other protocols."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from ple_rec.serve.http.connection import protocol
from tests.serve.http.running import Raw, Running

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n"
CHUNKED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def statuses(raw: Raw) -> list[int]:
    """Statuses of all answers until the server closes."""
    received = b"".join(iter(lambda: raw.socket.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)]


def post(body: bytes, more: bytes = b"") -> bytes:
    head = b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("step", [10**6, 1, 7])
def test_an_offer_of_another_protocol_is_ignored(server: Running, request_body: dict[str, Any], step: int) -> None:
    """As Java's HttpClient and `curl --http2` make one with every request."""
    body = json.dumps(request_body).encode()
    chunks = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    chunked = post(b"", OFFER).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + chunks
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + OFFER + b"\r\n"
    sent = post(body, OFFER) + chunked + get + post(body, b"Connection: close\r\n")
    with Raw(server.port) as raw:
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(sent), step):
            raw.send(sent[at : at + step])
        assert statuses(raw) == [200] * 4


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"0\r\n", b"a:b\r\n"), (b"0\r\na:", b"b"), (b"1;", b"x")],
    ids=["trailers", "one trailer", "extension"],
)
def test_what_stands_around_a_body_is_bounded(server: Running, begin: bytes, more: bytes) -> None:
    with Raw(server.port) as raw:
        raw.send(CHUNKED + begin)
        with pytest.raises(ConnectionError):
            raw.socket.sendall(more * (64_000_000 // len(more)))  # far more than the buffers of sockets hold
    assert server.get("/healthz").status == 200


def test_trailers_are_dropped(server: Running) -> None:
    with Raw(server.port) as raw:
        raw.send(CHUNKED + b"0\r\nHost: elsewhere\r\n\r\n" + CHUNKED + b"0\r\n\r\n" + CLOSE)
        assert statuses(raw) == [200] * 3


def test_what_is_no_request_is_told_so_in_json(server: Running) -> None:
    for sent, status in ((b"\x16\x03\x01 no HTTP\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431)):
        with Raw(server.port) as raw:
            raw.send(sent)
            answer = raw.answer()
            assert (answer.status, answer.field) == (status, "head")
            assert raw.ended()


DRIPS = {
    "head": (b"GET / HTTP/1.1\r\n", b"a"),
    "body after the answer": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "between requests": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
}


def test_drops_keep_no_connection_open() -> None:
    """A byte every .05 s, of a head, after an answer, or of nothing; where .4 s may be idle."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("done")(scope, receive, send)

    async def drip(port: int, begin: bytes, piece: bytes) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        reading = asyncio.ensure_future(reader.read())  # until it is closed
        for _ in range(60):
            writer.write(piece)
            await asyncio.wait([reading], timeout=0.05)
            if reading.done():
                break
        writer.close()
        ended = reading.done()
        await asyncio.gather(reading, return_exceptions=True)
        return ended

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            config = uvicorn.Config(app, http=protocol(0.4), lifespan="off", ws="none", log_config=None)
            server = uvicorn.Server(config)
            task = asyncio.ensure_future(server.serve(sockets=[bound]))
            while not server.started:
                await asyncio.sleep(0.01)
            drips = (drip(bound.getsockname()[1], *each) for each in DRIPS.values())
            ended = await asyncio.gather(*drips)
            server.should_exit = True
            await task
            assert dict(zip(DRIPS, ended, strict=True)) == dict.fromkeys(DRIPS, True)

    asyncio.run(run())
