"""Clients that ask a server, each one request after the other, over real sockets."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FAILED = 0  # status of a request whose connection broke


@dataclass
class Answers:
    """What a load came to.

    Args:
        statuses: Status of each request.
        milliseconds: Time to the answer of each request.
        seconds: Time until all were answered.
    """

    statuses: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Requests a second that were answered by 200."""
        return self.statuses.count(200) / self.seconds

    def quantile(self, q: float) -> float:
        """Return milliseconds to the answer, of what was answered by 200."""
        served = [ms for status, ms in zip(self.statuses, self.milliseconds, strict=True) if status == 200]
        return float(np.quantile(served or [float("nan")], q))


def ask(port: int, path: str, bodies: Sequence[bytes], *, seconds: float, clients: int) -> Answers:
    """Post bodies in turn, by so many clients at once.

    Args:
        port: Port of the server on this machine.
        path: Path of every request.
        bodies: JSON of the requests.
        seconds: How long requests are started.
        clients: Number of clients.
    """
    answers, begun = Answers(), time.perf_counter()

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
