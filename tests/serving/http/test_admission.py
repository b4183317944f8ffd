"""One request on its way through the application: how long it is waited for, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from ple_rec.serving.http.admission import Admission
from ple_rec.serving.http.app import application
from ple_rec.serving.http.batching import Answer, Batcher, Kind
from ple_rec.serving.http.metrics import ServerMetrics
from ple_rec.serving.http.options import ServerOptions

BODY: Message = {"type": "http.request", "body": b"{}", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


class SlowBatcher(Batcher):
    """A batcher without a model, which takes its time and notes who no longer waits for it.

    Args:
        metrics: Metrics of the application.
        seconds: Seconds until an answer.
    """

    def __init__(self, metrics: ServerMetrics, seconds: float) -> None:
        none: Any = None
        super().__init__(none, 1, metrics)
        self.begun, self.cancelled, self._seconds = asyncio.Event(), 0, seconds

    async def answer(self, kind: Kind, body: bytes) -> Answer:
        """Return the body after a while."""
        self.begun.set()
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Answer(200, body)


class Client:
    """A client whose messages come when a test says so.

    Args:
        options: Options of the server.
        seconds: Seconds until the model answers.
    """

    def __init__(self, options: ServerOptions, seconds: float) -> None:
        self.metrics = ServerMetrics()
        self.batcher = SlowBatcher(self.metrics, seconds)
        self.admission = Admission(options, lambda: self.batcher.seconds_per_request)
        self.app = application(self.batcher, self.admission, options, self.metrics)
        self.coming: asyncio.Queue[Message] = asyncio.Queue()
        self.sent = list[Message]()
        self.at_start: Callable[[], None] = lambda: None  # when the head of the answer is sent

    def post(self) -> asyncio.Task[None]:
        """Send the head of a request."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.at_start()
            self.sent.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/v1/rank",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "query_string": b"",
            "client": None,
        }
        return asyncio.ensure_future(self.app(scope, self.coming.get, send))

    @property
    def refused(self) -> tuple[int, str]:
        """Status and field of the answer."""
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["error"]["field"]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


class Limits(list[asyncio.Timeout]):
    """The time limits that requests have, which a test lets pass when it likes."""

    def start(self, seconds: float) -> asyncio.Timeout:
        """Return a limit, as `asyncio.timeout` does."""
        assert seconds == ServerOptions.time_limit
        self.append(asyncio.Timeout(None))
        return self[-1]

    def pass_now(self) -> None:
        """Let the one limit that there is be over."""
        (limit,) = self
        limit.reschedule(0)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    limits = Limits()
    monkeypatch.setattr("ple_rec.serving.http.admission.asyncio.timeout", limits.start)
    return limits


@pytest.mark.parametrize(
    ("comes", "refused"), [([], (408, "body")), ([{**BODY, "more_body": True}], (408, "body")), ([BODY], (504, "time"))]
)
def test_one_limit_is_for_the_body_and_the_answer(
    tmp_path: Path, limits: Limits, comes: list[Message], refused: tuple[int, str]
) -> None:
    async def run() -> None:
        client = Client(ServerOptions(tmp_path), 60)
        for message in comes:
            client.coming.put_nowait(message)
        task = client.post()
        late = refused[0] == 504
        while not limits or not client.coming.empty() or client.batcher.begun.is_set() != late:
            await asyncio.sleep(0)
        limits.pass_now()
        await task
        assert client.refused == refused
        assert client.count("ple_rec_refused_total", reason="time") == 1
        assert client.count("ple_rec_taken_requests") == 0
        assert client.batcher.cancelled == late

    asyncio.run(run())


@pytest.mark.parametrize("reading", [True, False])
def test_a_client_that_goes_leaves_nothing_behind(tmp_path: Path, limits: Limits, reading: bool) -> None:
    async def run() -> None:
        client = Client(ServerOptions(tmp_path), 60)
        task = client.post()
        if not reading:
            client.coming.put_nowait(BODY)
            await client.batcher.begun.wait()
            assert client.count("ple_rec_taken_requests") == 1
        client.coming.put_nowait(GONE)
        await task
        assert client.sent == []
        assert client.batcher.cancelled == (not reading)
        assert client.count("ple_rec_taken_requests") == 0
        assert client.count("ple_rec_clients_gone_total") == 1

    asyncio.run(run())


def test_who_is_slow_to_take_an_answer_keeps_nobody_out(tmp_path: Path, limits: Limits) -> None:
    """Nor a server from its end, which waits for requests that have no answer yet."""

    async def run() -> None:
        client = Client(ServerOptions(tmp_path), 0)
        waiting = list[float]()
        client.at_start = lambda: waiting.append(client.count("ple_rec_taken_requests"))
        client.coming.put_nowait(BODY)
        await client.post()
        assert (client.sent[0]["status"], waiting) == (200, [0])

    asyncio.run(run())


def test_a_bug_frees_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(self: SlowBatcher, kind: Kind, body: bytes) -> Answer:
        raise TimeoutError("of something else")

    monkeypatch.setattr(SlowBatcher, "answer", breaks)

    async def run() -> None:
        client = Client(ServerOptions(tmp_path, queue=1, time_limit=60), 0)
        for _ in range(2):
            client.sent.clear()
            client.coming.put_nowait(BODY)
            await client.post()
            assert client.refused == (500, "server")
        assert client.count("ple_rec_taken_requests") == 0

    asyncio.run(run())
