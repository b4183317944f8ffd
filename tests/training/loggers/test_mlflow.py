"""A real MLflow server hears each record once, also where it or the run was away in between."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.load import load_config
from ple_rec.config.run import MlflowConfig, RunConfig, WatchConfig
from ple_rec.errors import PreemptedError, UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.loggers import check_installed, check_reachable, mlflow
from ple_rec.training.loggers.background import BackgroundLogger
from ple_rec.training.loggers.base import (
    Ending,
    LoggerUnavailableError,
    TimedRecord,
    final_scalars,
    flatten_config,
    record_scalars,
)
from ple_rec.training.loggers.mlflow import Mlflow
from ple_rec.training.progress import TrainingProgress
from ple_rec.training.run import train
from tests.tiny import wait_until
from tests.training.loggers.mlflow_server import Server
from tests.training.small import on_ranks, records, small_config, write_small

pytestmark = pytest.mark.usefixtures("no_charts")

CHANGES: dict[str, Any] = {"train": {"batch_size": 24, "steps": 9, "report_every": 4}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"  # a busy machine is no dead server
    server = Server(tmp_path_factory.mktemp("mlflow"))
    with ExitStack() as stack:
        stack.callback(server.kill)
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small") / "data")


def watched(server: Server, data: Path, experiment: str, **changes: Any) -> RunConfig:
    watch = {"mlflow": {"tracking_uri": server.uri, "experiment": experiment}, "tensorboard": False}
    return small_config(data, CHANGES | {"watch": watch} | changes)


def runs(server: Server, experiment: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    found: list[Any] = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return found


def history(server: Server, run: Any, key: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, in the order of steps."""
    from mlflow.tracking import MlflowClient

    points = MlflowClient(server.uri).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value) for point in points)


def artifact(server: Server, run: Any, name: str) -> str:
    files = [file for file in (server.folder / "artifacts").rglob(name) if run.info.run_id in file.parts]
    assert len(files) == 1
    return files[0].read_text()


def expected(run_dir: Path, key: str) -> list[tuple[int, float]]:
    told = [(record["step"], record_scalars(record)) for record in records(run_dir, times=True)]
    return [(step, values[key]) for step, values in told if key in values]


def _train(rank: int, world_size: int, config: RunConfig, run_dir: Path, resume: bool, kill: int | None) -> str:
    """What was printed; `kill` is a process that dies after two steps, once it has the parameters."""
    sys.stdout = printed = io.StringIO()
    advance, count = TrainingProgress.advance, [0]

    def advance_and_kill(self: TrainingProgress) -> None:
        advance(self)
        count[0] += 1
        if count[0] == 2 and kill is not None:
            (mlflow,) = (one.run_logger for one in self.loggers._loggers)
            assert isinstance(mlflow, Mlflow)
            assert wait_until(lambda: bool(mlflow.client.get_run(mlflow.run_id).data.params), 60)
            os.kill(kill, 9)

    TrainingProgress.advance = advance_and_kill  # type: ignore[method-assign]
    train(config, run_dir, resume=resume)
    return printed.getvalue()


def test_a_run_that_goes_on_is_one_run_of_the_server(
    server: Server, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train(watched(server, data, "goes on"), run_dir)
    longer = watched(server, data, "goes on", train={**CHANGES["train"], "steps": 13})
    train(longer, run_dir, resume=True)
    said = capsys.readouterr().out
    (run,) = runs(server, "goes on")
    place = f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert said.count(f"watched by: mlflow {place}\n") == 2
    assert "mlflow: " not in said
    assert (run.data.params["train.steps"], run.data.tags["resumed.train.steps"]) == ("9", "13")
    check_run(server, run, run_dir)
    assert [step for step, _ in history(server, run, "train/loss")] == [4, 8, 9, 12, 13]


@pytest.mark.slow
def test_a_run_that_loses_its_server_and_goes_on(server: Server, data: Path, tmp_path: Path) -> None:
    config, run_dir = watched(server, data, "trained"), tmp_path / "run"
    assert server.process is not None
    try:
        (said,) = on_ranks(_train, 1, config, run_dir, False, server.process.pid, init=False)
    finally:
        server.kill()
        server.start()
    (run,) = runs(server, "trained")
    place = f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert f"watched by: mlflow {place}\n" in said
    about = [line for line in said.splitlines() if line.startswith("mlflow: ")]
    assert len(about) == 2
    assert about[0].endswith("; training goes on, and the missing records are sent once it answers")
    assert about[1] == (
        "mlflow: did not receive 4 record(s) and the end of the run; train.jsonl and metrics.json hold all "
        "records, and --resume sends the missing ones"
    )
    assert json.loads((run_dir / "metrics.json").read_text())["steps"] == 9
    assert run.info.status == "RUNNING"
    assert history(server, run, "train/loss") == []

    longer = watched(server, data, "trained", train={**CHANGES["train"], "steps": 13})
    (said,) = on_ranks(_train, 1, longer, run_dir, True, None, init=False)
    assert "mlflow: " not in said
    (again,) = runs(server, "trained")
    assert again.info.run_id == run.info.run_id
    assert (again.data.params["train.steps"], again.data.tags["resumed.train.steps"]) == ("9", "13")
    check_run(server, again, run_dir)
    assert [step for step, _ in history(server, again, "train/loss")] == [4, 8, 9, 12, 13]


def check_run(server: Server, run: Any, run_dir: Path) -> None:
    """Whether the server has a finished run as its directory has it, but for parameters, which it keeps."""
    assert (run.info.status, run.info.run_name) == ("FINISHED", "small")
    written = flatten_config(load_config(RunConfig, run_dir / "config.toml"))
    assert sorted(run.data.params.values()) == sorted(str(value) for value in ({**written, "train.steps": 9}).values())
    assert run.data.params["model.levels.0.expert_hidden"] == "[8]"
    told = {tag for record in records(run_dir, times=True) for tag in record_scalars(record)}
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["stopped_early"] is False
    assert run.data.metrics.keys() == told | final_scalars(metrics).keys()
    for key in ("train/loss", "train/click/auc", "valid/click/auc", "train/samples_per_second"):
        assert history(server, run, key) == expected(run_dir, key)
    final = metrics["test"]["tasks"]["click"]["auc"]
    assert history(server, run, "final/test/click/auc")[-1] == (metrics["steps"], final)
    for name in ("config.toml", "report.html", "metrics.json"):
        assert artifact(server, run, name) == (run_dir / name).read_text()


def test_a_preempted_run_stays_running(
    server: Server, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = TrainingProgress.advance

    def advance_and_stop(self: TrainingProgress) -> None:
        advance(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "advance", advance_and_stop)
    with pytest.raises(PreemptedError):
        train(watched(server, data, "preempted"), tmp_path / "run")
    (run,) = runs(server, "preempted")
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    assert run.data.params["train.steps"] == "9"


def test_a_server_that_is_away_is_tried_again(server: Server, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "run").mkdir()
    run_logger = Mlflow(
        watched(server, tmp_path, "away"), RunDirectory(tmp_path / "run", tmp_path / "run"), resume=False
    )
    run_logger.client = MlflowClient("http://127.0.0.1:9")
    with pytest.raises(LoggerUnavailableError, match="connection refused"):
        run_logger.log([TimedRecord(1.0, _record(2))])


def _record(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {"split": "train", "step": step, "loss": loss, "tasks": {"click": {"auc": 0.5}}}


def _background(config: RunConfig, run_dir: Path, *, resume: bool = False, **settings: Any) -> BackgroundLogger:
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.toml").write_text("")
    return BackgroundLogger(Mlflow(config, RunDirectory(run_dir, run_dir), resume=resume), **settings)


def _ended(run_logger: BackgroundLogger) -> None:
    run_logger.end(Ending(time.time(), "failed"))
    run_logger.wait(60)


def test_superseded_steps_are_not_told_twice(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run_dir = watched(server, tmp_path, "twice"), tmp_path / "run"
    first = _background(config, run_dir)
    first.begin(0, [])
    for step in (2, 4, 6):
        first.log(_record(step))
    _ended(first)
    (run,) = runs(server, "twice")
    assert run.info.status == "FAILED"
    second = _background(config, run_dir, resume=True)
    assert runs(server, "twice")[0].info.status == "RUNNING"
    second.begin(4, [_record(2), _record(3), _record(4)])  # 3 it never heard of
    for step in (6, 8):
        second.log(_record(step))
    _ended(second)
    assert [step for step, _ in history(server, run, "train/loss")] == [2, 3, 4, 6, 8]
    assert capsys.readouterr().out == ""

    elsewhere = _background(watched(server, tmp_path, "other"), run_dir, resume=True)
    elsewhere.begin(4, [_record(2), _record(4)])
    _ended(elsewhere)
    assert [step for step, _ in history(server, runs(server, "other")[0], "train/loss")] == [2, 4]
    fresh = _background(config, run_dir)
    _ended(fresh)
    assert len(runs(server, "twice")) == 2


def test_a_slow_server_makes_no_step_wait(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_logger = _background(watched(server, tmp_path, "slow"), tmp_path / "run")
    server.slow(0.1)
    try:
        run_logger.begin(0, [])
        waited = 0.0
        for step in range(200):
            begun = time.perf_counter()
            run_logger.log(_record(step))
            waited += time.perf_counter() - begun
            time.sleep(0.001)
        assert waited < 10  # under any load; 200 answers take 20 seconds
        _ended(run_logger)
    finally:
        server.slow(0)
    assert len(history(server, runs(server, "slow")[0], "train/click/auc")) == 200
    assert capsys.readouterr().out == ""


def test_the_limits_of_the_server(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Long values, more parameters and metrics than a request takes; the same records twice."""
    names = [f"feature_{i}" for i in range(1000)]
    tables = {f"table_{i}": {"dim": 8} for i in range(120)}
    changes = {"data": {"path": "x", "drop": names}, "embeddings": {"dim": 4, "tables": tables}}
    config = small_config(tmp_path, {**changes, "watch": watched(server, tmp_path, "limits").watch.model_dump()})
    run_logger = _background(config, tmp_path / "run")
    run_logger.begin(0, [])
    many = {f"task_{i}": {"auc": 0.5, "ne": 0.75} for i in range(700)}
    for step in (1, 2):
        run_logger.log(_record(step) | {"tasks": many})
    _ended(run_logger)
    (run,) = runs(server, "limits")
    assert run.data.params["data.drop"] == json.dumps(names)[:6000]
    assert run.data.params["embeddings.tables.table_119.dim"] == "8"
    assert len(run.data.metrics) == 1 + 1400
    assert history(server, run, "train/task_699/ne") == [(1, 0.75), (2, 0.75)]
    assert capsys.readouterr().out == ""
    told = [(record_scalars(_record(3)), 3, 1e9)] * 2
    for _ in range(2):  # as after a request whose answer was lost
        run_logger.run_logger._send_metrics(told[:1])  # type: ignore[attr-defined]
    assert [step for step, _ in history(server, run, "train/loss")] == [1, 2, 3]


def test_a_file_that_cannot_be_sent_does_not_keep_the_run_open(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_logger = _background(watched(server, tmp_path, "file"), tmp_path / "run")
    run_logger.begin(0, [])
    run_logger.end(Ending(time.time(), "finished", {"steps": 2}, {"../absent.html": "page"}))
    run_logger.wait(60)
    assert runs(server, "file")[0].info.status == "FINISHED"
    assert "Invalid artifact path" in capsys.readouterr().out


def test_a_server_that_does_not_answer_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    check_installed(WatchConfig(mlflow=MlflowConfig(tracking_uri="http://127.0.0.1:9")))  # no word to it
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        check_reachable(WatchConfig(mlflow=MlflowConfig(tracking_uri="http://127.0.0.1:9")))
    assert time.monotonic() - begun < 60  # under any load; MLflow's own attempts take minutes
    said = str(caught.value)
    assert said == (
        "watch.mlflow.tracking_uri: got 'http://127.0.0.1:9', where no MLflow server answers (connection refused); the "
        "server must answer before the run starts. Fix: start the server, correct the address or the credentials, or "
        "leave out the section [watch.mlflow]"
    )
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"


def test_a_server_that_does_not_answer_costs_no_earlier_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("earlier")
    config = small_config(data, CHANGES | {"watch": {"mlflow": {"tracking_uri": "http://127.0.0.1:9"}}})
    with pytest.raises(UserError, match=r"^watch\.mlflow\.tracking_uri: "):
        train(config, tmp_path, overwrite=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "earlier"


def test_a_deleted_experiment_is_refused(server: Server) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError) as caught:
        mlflow.connect(MlflowConfig(tracking_uri=server.uri, experiment="gone"))
    assert str(caught.value) == (
        "watch.mlflow.experiment: got 'gone', which has been deleted on the server; a deleted experiment takes "
        "no runs. Fix: restore it on the server, or name another experiment"
    )


def test_where_mlflow_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(UserError) as caught:
        check_installed(WatchConfig(mlflow=MlflowConfig(tracking_uri="http://127.0.0.1:9")))
    said = str(caught.value)
    assert said.startswith("watch.mlflow: mlflow cannot be imported (")
    assert said.endswith(
        "); it sends the metrics to the server. Fix: install it (pip install mlflow-skinny), or leave out the section "
        "[watch.mlflow]"
    )
