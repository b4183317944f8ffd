"""A server takes deltas under load: no request fails, and each answer is wholly that of the version that it names."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.inputs.side_tables import read_side_table
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.side_table import TableSources, publish_tables
from tests.inference.delta_versions import Days, values_of
from tests.inference.exported import set_latest
from tests.inference.side_feed import TIME, USER
from tests.serving.http.running import Raw, Running, running
from tests.tiny import wait_until

Scores = dict[str, list[list[float]]]


@pytest.fixture
def days(feed_model: Path, tmp_path: Path) -> Days:
    """A model with one whole version, in int8."""
    return Days(tmp_path, feed_model / "versions/v1")


def make_bodies(days: Days) -> list[dict[str, Any]]:
    """Return rankings of the videos of the last version for some of its users."""
    users, videos = (values_of(days.whole(days.count), table) for table in ("user_id", "video_id"))
    items = [{"video_id": each, "history": videos[:3]} for each in videos * 3]
    return [{"user": {"user_id": user}, "items": items} for user in users[:4]]


def scores_of(answer: dict[str, Any]) -> list[float]:
    """Return the scores of an answer in the order of the items of the request."""
    return [each["score"] for each in sorted(answer["items"], key=lambda each: int(each["index"]))]


@contextmanager
def asking(server: Running, bodies: list[dict[str, Any]]) -> Iterator[list[tuple[int, int, dict[str, Any]]]]:
    """Send requests by two clients during the block; yield the number of the body, status and answer of each."""
    answers, stop = list[tuple[int, int, dict[str, Any]]](), threading.Event()

    def client(first: int) -> None:
        contents = [json.dumps(each).encode() for each in bodies]
        i = first
        with Raw(server.port) as raw:
            while not stop.is_set():
                i = (i + 1) % len(bodies)
                raw.head("POST", "/v1/rank", len(contents[i]))
                raw.send(contents[i])
                answer = raw.answer()
                answers.append((i, answer.status, answer.json()))

    threads = [threading.Thread(target=client, args=(first,)) for first in (0, 2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def wait_for_answers(answers: list[tuple[int, int, dict[str, Any]]], name: str) -> None:
    """Wait until a version has given some answers."""
    assert wait_until(lambda: bool(answers) and answers[-1][2].get("version") == name, 20)
    count = len(answers)
    assert wait_until(lambda: len(answers) > count + 8, 20)


def test_deltas_are_taken_under_load(days: Days, tmp_path: Path) -> None:
    for whole in (False, False, False, True, False):
        days.add(whole=whole)
    names = [f"v{i}" for i in range(1, days.count + 1)]
    bodies = make_bodies(days)
    expected: Scores = {}
    for i, name in enumerate(names, 1):
        ranker = Ranker(days.whole(i), 1)
        expected[name] = [scores_of(ranker.answer([ranker.read_rank(body)])[0]) for body in bodies]
    # An answer that mixes two versions would have scores of neither.
    for i, name in enumerate(names[1:], 1):
        assert np.abs(np.subtract(expected[name], expected[names[i - 1]])).max(axis=1).min() > 1e-3

    # Two deltas at once, the next one, a whole version, a delta of it, back to a delta, and to the first version.
    turns = ["v3", "v4", "v5", "v6", "v4", "v1"]
    overlays = []
    with running(days.model, tmp_path) as server, asking(server, bodies) as answers:
        for name in turns:
            set_latest(days.model, name)
            server.signal(signal.SIGHUP)
            wait_for_answers(answers, name)
            overlays.append(server.metric("ple_rec_overlay_bytes"))
        assert server.metric('ple_rec_reloads_total{outcome="loaded"}') == len(turns)
        log = server.log.read_text()
    assert {status for _, status, _ in answers} == {200}
    for i, _, answer in answers:
        assert scores_of(answer) == pytest.approx(expected[answer["version"]][i], abs=1e-5)
    assert {answer["version"] for _, _, answer in answers} == {"v1", *turns}
    assert 0 < overlays[0] < overlays[1] == overlays[4]
    assert overlays[2] == overlays[5] == 0 < overlays[3]
    assert "overlay_bytes=0" in log
    assert f"overlay_bytes={overlays[3]:.0f}" in log


def test_a_delta_without_its_base_is_logged_once_and_taken_when_the_base_is_back(
    days: Days, feed: Path, tmp_path: Path
) -> None:
    """The side tables of the model stay in use."""
    publish_tables(days.model, ["videos"], TableSources(str(feed / "raw")), read_side_table)
    days.add()
    days.add()
    (body, *_) = make_bodies(days)
    raw = {"form": "raw", "user": {"user_id": USER}, "items": [{"video_id": "v3", **TIME}]}
    hidden = tmp_path / "v2"
    with running(days.model, tmp_path) as server:
        days.version(2).rename(hidden)
        set_latest(days.model, "v3")
        assert server.said("event=reload_refused version=v3")
        assert "v2: is missing; v3 has only what differs from it" in server.log.read_text()
        assert not wait_until(lambda: server.log.read_text().count("event=reload_refused") > 1, 3)  # more checks
        assert server.post("/v1/rank", body).json()["version"] == "v1"
        missing = server.post("/v1/rank", raw).json()["missing"]
        assert "videos.length" not in missing
        hidden.rename(days.version(2))
        assert server.said("event=reload version=v3")
        assert server.post("/v1/rank", body).json()["version"] == "v3"
        assert server.post("/v1/rank", raw).json()["missing"] == missing
        assert server.metric('ple_rec_reloads_total{outcome="refused"}') == 1

        # A delta that was made from another version of the same name.
        days.add()
        hidden = days.version(3).rename(tmp_path / "v3")
        shutil.copytree(days.whole(3), days.version(3))
        set_latest(days.model, "v4")
        assert server.said("event=reload_refused version=v4")
        assert server.post("/v1/rank", body).json()["version"] == "v3"
        shutil.rmtree(days.version(3))
        hidden.rename(days.version(3))
        assert server.said("event=reload version=v4")
        assert server.post("/v1/rank", body).json()["version"] == "v4"
