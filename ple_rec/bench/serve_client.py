"""The process that asks a server: so many requests a second, or so many at a time, over real sockets.

-m ple_rec.bench.serve_client ORDER.json

Of a load by rate, requests start at random moments that do not wait for answers (a Poisson process), and a request's
time counts from the moment at which it was to start: a server that stalls cannot hide it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

FAILED = 0  # status of a request whose connection broke
_MOST_CONNECTIONS = 512


@dataclass(frozen=True)
class Load:
    """What is asked.

    Args:
        port: Of the server.
        path: Of every request.
        bodies: Files, taken in turn.
        seconds: How long requests are started.
        rate: Of them a second; 0: by `clients`.
        clients: That ask one request after the other, where there is no rate.
        seed: Of the moments.
    """

    port: int
    path: str
    bodies: Sequence[str]
    seconds: float
    rate: float = 0.0
    clients: int = 1
    seed: int = 0


@dataclass
class Asked:
    """Of each request: status, milliseconds to its answer; and the seconds until all were answered."""

    statuses: list[int]
    milliseconds: list[float]
    seconds: float

    def served(self) -> list[float]:
        """Milliseconds of what was answered by 200."""
        return [ms for status, ms in zip(self.statuses, self.milliseconds, strict=True) if status == 200]

    def share(self, *statuses: int) -> float:
        """Of all requests, with one of these."""
        return sum(map(self.statuses.count, statuses)) / max(1, len(self.statuses))

    def quantile(self, q: float) -> float:
        """Milliseconds of what was served."""
        return float(np.quantile(self.served() or [float("nan")], q))

    def rate(self) -> float:
        """Served a second."""
        return len(self.served()) / self.seconds


def joined(parts: Sequence[Asked]) -> Asked:
    """Of several loads as of one."""
    statuses = [status for part in parts for status in part.statuses]
    milliseconds = [ms for part in parts for ms in part.milliseconds]
    return Asked(statuses, milliseconds, sum(part.seconds for part in parts))


class _Connection:
    """One at a time, with HTTP as far as an answer of known length needs it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.open = True

    async def ask(self, message: bytes) -> int:
        """Status of the answer, which is read to its end."""
        try:
            self._writer.write(message)
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            await self._reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError):
            self.open = False
            return FAILED
        self.open = b"connection: close" not in head
        return int(head[9:12])

    def left_open(self) -> bool:
        """Whether the server has not closed it meanwhile, as servers do with connections that are idle for long."""
        return not self._reader.at_eof()

    def close(self) -> None:
        self._writer.close()


class _Client:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._messages = [_message(load.path, Path(file).read_bytes()) for file in load.bodies]
        self._free: list[_Connection] = []
        self._room = asyncio.Semaphore(_MOST_CONNECTIONS)
        self.asked = Asked([], [], 0.0)

    async def ask(self, number: int, begun: float) -> None:
        """One request; `begun` when it was to start."""
        async with self._room:
            connection = self._kept() or await self._connect()
            status = (
                FAILED if connection is None else await connection.ask(self._messages[number % len(self._messages)])
            )
        self.asked.statuses.append(status)
        self.asked.milliseconds.append(1000 * (time.perf_counter() - begun))
        if connection is not None:
            if connection.open:
                self._free.append(connection)
            else:
                connection.close()

    def _kept(self) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.left_open():
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection | None:
        try:
            return _Connection(*await asyncio.open_connection("127.0.0.1", self._load.port, limit=1 << 22))
        except OSError:
            return None

    async def run(self) -> Asked:
        """All of the load."""
        begun = time.perf_counter()
        await (self._at_rate(begun) if self._load.rate else self._in_turn(begun))
        self.asked.seconds = time.perf_counter() - begun
        for connection in self._free:
            connection.close()
        return self.asked

    async def _at_rate(self, begun: float) -> None:
        rng = np.random.default_rng(self._load.seed)
        count = max(1, round(self._load.rate * self._load.seconds))
        starts_N = np.sort(rng.random(count)) * self._load.seconds
        tasks = []
        for number, start in enumerate(starts_N.tolist()):
            while (left := begun + start - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            tasks.append(asyncio.ensure_future(self.ask(number, begun + start)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    async def _in_turn(self, begun: float) -> None:
        async def one(first: int) -> None:
            number = first
            while time.perf_counter() - begun < self._load.seconds:
                await self.ask(number, time.perf_counter())
                number += self._load.clients

        await asyncio.gather(*(one(first) for first in range(self._load.clients)))


def _message(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(load: Load) -> Asked:
    """Put a load on a server."""
    return await _Client(load).run()


def main(order: Path) -> None:
    """Read an order, and print what was asked."""
    loads: list[dict[str, Any]] = json.loads(order.read_text(encoding="utf-8"))
    found = [asdict(uvloop.run(ask(Load(**load)))) for load in loads]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
