"""Long under more load than it can bear: memory stays flat, what is served stays right, nothing is logged as a bug."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import CONNECTION_FAILED, post_requests
from tests.inference.exported import set_latest
from tests.serving.http.running import Raw, Running, running
from tests.serving.http.test_api import many

_CLIENTS = 80  # more than the queue takes
_ALLOWED = 12 << 20  # bytes that memory may grow by after the first half, when every size has been asked for


def test_a_load_is_answered(server: Running, request_body: dict[str, Any]) -> None:
    answers = post_requests(server.port, "/v1/rank", [json.dumps(request_body).encode()], seconds=0.2, clients=2)
    assert len(answers.statuses) == len(answers.milliseconds) >= 2
    assert set(answers.statuses) == {200}
    assert answers.per_second > 0


@pytest.mark.slow
def test_memory_is_flat(model_dir: Path, tmp_path: Path, request_body: dict[str, Any]) -> None:
    """Two versions change places all the time, and some clients are rude."""
    seconds = 600
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    shutil.copytree(model / "versions" / "v1", model / "versions" / "v2")
    bodies = [json.dumps(many(request_body, count)).encode() for count in (1, 60, 400, 2000)]
    with running(model, tmp_path) as server:
        rude = threading.Thread(target=_be_rude, args=(server, model, seconds))
        rude.start()
        parts, memory = 4, []
        for _ in range(parts):
            answers = post_requests(server.port, "/v1/rank", bodies, seconds=seconds / parts, clients=_CLIENTS)
            assert CONNECTION_FAILED not in answers.statuses
            assert set(answers.statuses) <= {200, 503, 504}
            assert answers.statuses.count(200) > 0.02 * len(answers.statuses)
            memory.append(_resident(server))
        rude.join()
        assert max(memory[2:]) - memory[1] < _ALLOWED, memory
        assert server.metric("ple_rec_taken_requests") == 0
        assert server.metric('ple_rec_reloads_total{outcome="loaded"}') >= seconds // 5
        assert "level=error" not in server.log.read_text()
        assert server.post("/v1/rank", request_body).status == 200


def _be_rude(server: Running, model: Path, seconds: float) -> None:
    """Bodies that are garbage, too large, never finished; clients that go; and another `latest` every second."""
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        turn += 1
        for body in (b"\xff" * 1000, b"[" * 10_000, b"x" * 9_000_000):
            assert server.post("/v1/rank", body).status in (400, 413, 503)
        with Raw(server.port) as raw:
            raw.head("POST", "/v1/rank", 10_000)
            raw.send(b"{")
        if turn % 4 == 0:
            set_latest(model, f"v{1 + turn // 4 % 2}")
        time.sleep(0.25)


def _resident(server: Running) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
