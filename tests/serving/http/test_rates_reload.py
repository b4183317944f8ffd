"""A server takes rates of a dataset with an appended day without a new model, and without a restart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ple_rec.cli import main
from ple_rec.serving.http import table_reload
from ple_rec.serving.http.metrics import ServerMetrics
from ple_rec.serving.http.reload import load
from ple_rec.serving.http.table_reload import TableLoader
from tests.inference.feed import LABELS, day_of
from tests.inference.rates_feed import LAST_DAY, TABLES
from tests.inference.side_feed import describe_table
from tests.serving.http.running import running
from tests.tiny import wait_until


@pytest.fixture
def own(rates_model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    shutil.copytree(rates_model, tmp_path / "model")
    return tmp_path / "model"


def test_newer_rates_change_the_answers_of_a_running_server(own: Path, rates_child: Path, tmp_path: Path) -> None:
    body = {"form": "raw", "rows": day_of(LAST_DAY + 2).drop_columns([*LABELS, "spam"]).to_pylist()}
    with running(own, tmp_path, "--rates-max-age", "1000000") as server:
        before = server.post("/v1/score", body)
        assert before.status == 200
        assert before.json()["rates_as_of"] == "2022-04-20"
        assert main(["tables", str(own), "--dataset", str(rates_child)]) == 0
        assert server.said("event=table name=by_users_city version=v2")
        assert wait_until(lambda: server.post("/v1/score", body).json()["rates_as_of"] == "2022-04-21", 5)
        after = server.post("/v1/score", body).json()
        assert after["rows"] != before.json()["rows"]
        assert after["version"] == "v1"
        tables = {each["name"]: each for each in server.get("/v1/model").json()["side_tables"]}
        assert {tables[name]["version"] for name in TABLES} == {"v2"}
        assert {(tables[name]["as_of"], tables[name]["is_old"]) for name in TABLES} == {("2022-04-21", False)}
        log = server.log.read_text()
        assert "event=reload " not in log
        assert "rates_are_old" not in log


def test_other_rates_of_the_same_name_are_not_used(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    monkeypatch.setattr(table_reload, "log_warning", lambda event, **fields: refused.append(f"{event} {fields}"))
    folder = own / "tables/by_video_id/v1"
    rates = json.loads((folder / "table.json").read_text())["rates"]
    describe_table(folder, rates=[rates[0] | {"window": "7d"}, *rates[1:]])
    loader = TableLoader(own, ServerMetrics(), max_age=10**6)
    ranker = loader.attach(load(own / "versions/v1", 1))
    assert sorted(ranker.side_tables) == sorted([*TABLES[1:], "users", "videos"])
    (line,) = refused
    assert "its rates are not those of the model, such as their windows; run ple-rec tables " in line
    assert "--tables by_video_id --dataset DATASET" in line
    # A table of an earlier version of this package has neither rates nor defaults.
    info = json.loads((own / "tables/users/v1/table.json").read_text())
    assert not {"rates", "defaults", "as_of"} & info.keys()
