"""A server loads a newer side table without the model, and keeps the old one where the new one cannot be used."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.inputs.side_tables import read_side_table
from ple_rec.errors import DataError
from ple_rec.inference.manifest import MANIFEST, write_manifest
from ple_rec.inference.side_table import TableSources, publish_tables
from ple_rec.serving.http import table_reload
from ple_rec.serving.http.metrics import ServerMetrics
from ple_rec.serving.http.reload import VersionStamp, load
from ple_rec.serving.http.table_reload import TableLoader
from tests.inference.exported import set_latest
from tests.inference.side_feed import TIME, USER, describe_table, rank
from tests.serving.http.running import Raw, Running, running
from tests.tiny import wait_until

BODY = {"form": "raw", "user": {"user_id": USER}, "items": [{"video_id": f"v{i}", **TIME} for i in range(12)]}


def publish(model: Path, source: Path, name: str = "videos") -> None:
    publish_tables(model, [name], TableSources(str(source)), read_side_table)


def write_lengths(folder: Path, feed: Path, length: float) -> Path:
    """Write a table of videos of one length."""
    videos = pq.read_table(feed / "raw/videos.parquet")
    lengths = pa.array([length] * videos.num_rows)
    folder.mkdir(exist_ok=True)
    pq.write_table(videos.set_column(3, "length", lengths), folder / "videos.parquet")
    return folder


def damage(model: Path, version: str) -> None:
    file = model / "tables/videos" / version / "table.parquet"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.fixture
def own(feed: Path, feed_model: Path, tmp_path: Path) -> Path:
    """A model of two versions with the first version of a side table."""
    model = tmp_path / "model"
    shutil.copytree(feed_model, model)
    shutil.copytree(model / "versions/v1", model / "versions/v2")
    publish(model, feed / "raw")
    return model


@contextmanager
def asking(server: Running) -> Iterator[list[tuple[int, bytes]]]:
    """Requests of two clients meanwhile; status and body of each answer."""
    answers, stop = list[tuple[int, bytes]](), threading.Event()
    content = json.dumps(BODY).encode()

    def client() -> None:
        with Raw(server.port) as raw:
            while not stop.is_set():
                raw.head("POST", "/v1/rank", len(content))
                raw.send(content)
                answer = raw.answer()
                answers.append((answer.status, answer.body))

    threads = [threading.Thread(target=client) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_a_new_table_is_taken_under_load(own: Path, feed: Path, tmp_path: Path) -> None:
    with running(own, tmp_path) as server:
        before = server.post("/v1/rank", BODY).body
        with asking(server) as answers:
            publish(own, write_lengths(tmp_path / "new", feed, 600.0))
            assert server.said("event=table name=videos version=v2 rows=16")
            # The server switches to the table after it has logged it.
            assert wait_until(lambda: server.post("/v1/rank", BODY).body != before, 5)
            after = server.post("/v1/rank", BODY).body
            assert wait_until(lambda: answers[-1][1] == after, 5)
            publish(own, feed / "raw")
            damage(own, "v3")
            server.signal(signal.SIGHUP)
            assert server.said("event=table_refused table=videos version=v3")
            count = len(answers)
            assert wait_until(lambda: len(answers) > count + 10, 5)
        assert "event=reload " not in server.log.read_text()  # The model was not loaded again.
        assert server.metric('ple_rec_table_reloads_total{outcome="loaded"}') == 2
        assert server.metric('ple_rec_table_reloads_total{outcome="refused"}') >= 1
        (described,) = server.get("/v1/model").json()["side_tables"]
        assert (described["version"], described["rows"]) == ("v2", 16)
        assert described["bytes"] > 0
    assert before != after
    assert {status for status, _ in answers} == {200}
    bodies = [body for _, body in answers]
    assert set(bodies) == {before, after}  # No answer mixes both tables.
    assert bodies[-1] == after


def test_old_rates_are_named(own: Path, tmp_path: Path) -> None:
    today = datetime.now(timezone(timedelta(hours=8))).date()
    describe_table(own / "tables/videos/v1", as_of=f"{today - timedelta(days=3)}", utc_offset="+08:00")
    with running(own, tmp_path, "--rates-max-age", "2") as server:
        (described,) = server.get("/v1/model").json()["side_tables"]
        assert (described["as_of"], described["is_old"]) == (f"{today - timedelta(days=3)}", True)
        assert server.said("event=rates_are_old table=videos version=v1")
        assert server.metric('ple_rec_rates_age_days{table="videos"}') >= 3
        assert server.post("/v1/rank", BODY).json()["rates_as_of"] == described["as_of"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Events that the loader of tables logs."""
    events: list[tuple[str, dict[str, Any]]] = []
    for name in ("log_info", "log_warning"):
        monkeypatch.setattr(table_reload, name, lambda event, **fields: events.append((event, fields)))
    return events


def test_a_refused_table_is_logged_once_and_tried_again_when_asked(
    own: Path, feed: Path, log: list[tuple[str, dict[str, Any]]]
) -> None:
    metrics = ServerMetrics()
    tables = TableLoader(own, metrics)
    bare = load(VersionStamp.of_latest(own).path, 1)
    first = tables.attach(bare, must_load=True)
    assert tables.attach(first) is first
    publish(own, feed / "raw")
    damage(own, "v2")
    assert tables.attach(first) is first
    assert tables.attach(first) is first
    assert [event for event, _ in log] == ["table", "table_refused"]
    assert log[-1][1] | {"why": ""} == {"table": "videos", "version": "v2", "kept": "v1", "why": ""}
    tables.retry()
    assert tables.attach(first) is first
    assert len(log) == 3
    (own / "tables/videos/latest").write_text("v9\n")
    assert tables.attach(first) is first
    assert "names 'v9'" in log[-1][1]["why"]
    publish(own, feed / "raw", "users")
    shutil.move(own / "tables/users/v1", own / "tables/videos/v10")
    shutil.rmtree(own / "tables/users")
    (own / "tables/videos/latest").write_text("v10\n")
    assert tables.attach(first) is first
    assert "holds the table 'users'; it must be 'videos'" in log[-1][1]["why"]
    (own / "tables/videos/latest").unlink()  # The table in memory stays.
    assert tables.attach(first) is first
    (own / "tables/videos/latest").write_text("v9\n")
    with pytest.raises(DataError):
        TableLoader(own, metrics).attach(bare, must_load=True)


def test_a_table_stays_over_versions_that_it_fits(own: Path, log: list[tuple[str, dict[str, Any]]]) -> None:
    tables = TableLoader(own, ServerMetrics())
    first = tables.attach(load(own / "versions/v1", 1))
    second = tables.attach(load(own / "versions/v2", 1))
    assert second.side_tables["videos"] is first.side_tables["videos"]
    assert rank(second, BODY["user"], BODY["items"])["version"] == "v2"  # type: ignore[arg-type]
    version = own / "versions/v3"
    shutil.copytree(own / "versions/v2", version)
    raw = version / "raw.json"
    raw.write_text(raw.read_text().replace('"length"', '"seconds"').replace("videos.length", "videos.seconds"))
    (version / MANIFEST).unlink()
    write_manifest(version)
    set_latest(own, "v3")
    third = load(version, 1)
    assert tables.attach(third) is third
    assert tables.attach(third) is third
    assert [event for event, _ in log] == ["table", "table_refused"]
    assert log[-1][1]["why"].endswith(f"no such column; run ple-rec tables {own} --tables videos --from FOLDER")
