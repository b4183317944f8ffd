"""Load on a server: clients that run at the same time, each of which sends one HTTP request after the other."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# Status in `LoadResult` of a request that got no answer, since its connection failed.
CONNECTION_FAILED = 0


@dataclass
class LoadResult:
    """Answers of a server to the requests of all clients.

    Args:
        statuses: HTTP status of the answer to each request, or `CONNECTION_FAILED`.
        milliseconds: Milliseconds from each request to its answer or failure.
        seconds: Seconds from the first request to the last answer or failure.
    """

    statuses: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Number of requests per second that were answered with status 200."""
        return self.statuses.count(200) / self.seconds

    def quantile(self, q: float) -> float:
        """Return a quantile of the milliseconds of the requests with status 200; NaN if there are none."""
        latencies = [ms for status, ms in zip(self.statuses, self.milliseconds, strict=True) if status == 200]
        return float(np.quantile(latencies or [float("nan")], q))


def post_requests(port: int, path: str, bodies: Sequence[bytes], *, seconds: float, clients: int) -> LoadResult:
    """Send POST requests from several clients at the same time, each of which waits for the answer to its last one.

    Args:
        port: Port of the server on this machine.
        path: Path of every request.
        bodies: JSON bodies of the requests. Client i of n sends number i, i + n, i + 2 n, ..., modulo their number.
        seconds: Seconds after which no client starts another request.
        clients: Number of clients.
    """
    answers, begun = LoadResult(), time.perf_counter()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() - begun < seconds:
            started = time.perf_counter()
            try:
                connection.request("POST", path, bodies[number % len(bodies)], {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = CONNECTION_FAILED
            answers.milliseconds.append(1000 * (time.perf_counter() - started))
            answers.statuses.append(status)
            number += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.seconds = time.perf_counter() - begun
    return answers
