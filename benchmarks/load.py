"""Clients that send requests to a server over sockets, each one after the other."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# A request whose connection broke has this status.
FAILED = 0


@dataclass
class LoadResult:
    """Answers to the requests of a load.

    Args:
        statuses: Status of each request.
        milliseconds: Milliseconds from each request to its answer.
        seconds: Seconds until all requests were answered.
    """

    statuses: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Number of requests answered by 200 per second."""
        return self.statuses.count(200) / self.seconds

    def quantile(self, q: float) -> float:
        """Return a quantile of the milliseconds of the requests answered by 200."""
        served = [ms for status, ms in zip(self.statuses, self.milliseconds, strict=True) if status == 200]
        return float(np.quantile(served or [float("nan")], q))


def ask(port: int, path: str, bodies: Sequence[bytes], *, seconds: float, clients: int) -> LoadResult:
    """Post bodies in turn from several clients at once.

    Args:
        port: Port of the server on this machine.
        path: Path of every request.
        bodies: JSON bodies of the requests.
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
                status = FAILED
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
