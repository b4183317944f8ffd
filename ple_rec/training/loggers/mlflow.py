"""Logger to an MLflow server: configuration as parameters, records and results as metrics, report as artifact.

The file `mlflow.json` of the run directory has the id of the run on the server, so a resumed run continues it there.
Metrics of a step that the server already has stay, since the server deletes none; missing ones are sent from
`train.jsonl`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ple_rec.config.load import dump_toml
from ple_rec.config.run import MlflowConfig, RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CONFIG, MLFLOW
from ple_rec.storage import Location
from ple_rec.training.loggers.base import (
    FINAL,
    Ending,
    LoggerUnavailableError,
    Record,
    TimedRecord,
    final_scalars,
    flatten_config,
    record_scalars,
)

# Limits of MLflow's REST interface: characters of a value, entries of a request.
_MAX_VALUE_LENGTH, _MAX_PARAMS, _MAX_METRICS = 6000, 100, 1000
# A preempted run will be resumed, so it stays RUNNING on the server.
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
# Requests time out soon and are not retried, since `BackgroundLogger` retries. The client must send no telemetry and
# print nothing.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_KEY = "watch.mlflow.tracking_uri"
# Number of characters of an error that a message repeats.
_MOST_SHOWN = 300


def check_installed() -> None:
    """Refuse `[watch.mlflow]` without MLflow's client, and set the environment variables that the client reads.

    Variables that the user has set are kept.

    Raises:
        UserError: The client cannot be imported.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        import mlflow.tracking  # noqa: F401
    except Exception as error:  # A broken installation may raise more than ImportError.
        raise UserError(
            "watch.mlflow",
            f"mlflow cannot be imported ({_short_message(error)})",
            "it sends the metrics to the server",
            "install it (pip install mlflow-skinny), or leave out the section [watch.mlflow]",
        ) from error


def connect(config: MlflowConfig) -> Any:
    """Return a client of the configured server, once the server has answered.

    Raises:
        UserError: The server does not answer within MLFLOW_HTTP_REQUEST_TIMEOUT seconds (5 unless set) or refuses the
            request, the experiment has been deleted, or mlflow is not installed.
    """
    check_installed()
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=config.tracking_uri)
        experiment = client.get_experiment_by_name(config.experiment)
    except Exception as error:  # The client, its HTTP library and stores of credentials have errors of their own.
        status = getattr(error, "get_http_status_code", lambda: 500)()
        outcome = "whose server refuses" if 400 <= status < 500 else "where no MLflow server answers"
        raise UserError(
            _KEY,
            f"got {config.tracking_uri!r}, {outcome} ({_short_message(error)})",
            "the server must answer before the run starts",
            "start the server, correct the address or the credentials, or leave out the section [watch.mlflow]",
        ) from error
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise UserError(
            "watch.mlflow.experiment",
            f"got {config.experiment!r}, which has been deleted on the server",
            "a deleted experiment takes no runs",
            "restore it on the server, or name another experiment",
        )
    return client


class Mlflow:
    """Logger to a run of an MLflow server, which is created or continued.

    Args:
        config: Configuration of the run, with `watch.mlflow`.
        run: Directory of the run.
        resume: True to continue the run that `mlflow.json` names, if the server still has it.

    Raises:
        UserError: The server does not answer, or refuses the run.
    """

    name = "mlflow"
    recovery = "train.jsonl and metrics.json hold all records, and --resume sends the missing ones"

    def __init__(self, config: RunConfig, run: RunDirectory, *, resume: bool) -> None:
        assert config.watch.mlflow is not None
        self.config, self.server = config, config.watch.mlflow
        self.client = connect(self.server)
        try:
            earlier = _resumed_run(self.client, self.server, run.address) if resume else None
            info = (earlier or self._create_run()).info
        except Exception as error:  # Errors are of many classes, as in `connect`.
            raise UserError(
                _KEY,
                f"got {self.server.tracking_uri!r}, which refuses the run ({_short_message(error)})",
                "the run is created on the server before it starts",
                "correct what the server names, or leave out the section [watch.mlflow]",
            ) from error
        self.run_id, self.experiment_id = info.run_id, info.experiment_id
        saved = {**self.server.model_dump(), "experiment_id": self.experiment_id, "run_id": self.run_id}
        run.write_json(MLFLOW, saved)
        self._resumed = earlier is not None
        # (split, step) of the records that the server already has.
        self._sent: set[tuple[str, int]] = set()

    @property
    def place(self) -> str:
        """Page of the run."""
        uri = self.server.tracking_uri.rstrip("/")
        return f"{uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def begin(self, step: int, past_records: Sequence[Record]) -> None:
        """Send the configuration, and the past records that the server lacks."""
        with _raise_unavailable():
            if self._resumed or past_records:
                for split, key in (("train", "train/loss"), ("valid", "valid/loss"), (FINAL, f"{FINAL}/steps")):
                    self._sent |= {(split, m.step) for m in self.client.get_metric_history(self.run_id, key)}
        now = time.time()
        self.log([TimedRecord(now, record) for record in past_records])
        with _raise_unavailable():
            self._send_params()
            self.client.log_text(self.run_id, dump_toml(self.config), CONFIG)

    def log(self, records: Sequence[TimedRecord]) -> None:
        """Send the records that the server lacks."""
        new = [(t, r) for t, r in records if (r["split"], r["step"]) not in self._sent]
        self._send_metrics([(record_scalars(record), record["step"], moment) for moment, record in new])

    def end(self, ending: Ending) -> None:
        """Send results and files, and close the run on the server, even if the files cannot be sent.

        A preempted run is not closed, because it will be resumed.
        """
        with _raise_unavailable():
            if ending.metrics and (FINAL, ending.metrics["steps"]) not in self._sent:
                self._send_metrics([(final_scalars(ending.metrics), ending.metrics["steps"], ending.time)])
            try:
                for name, text in ending.files.items():
                    self.client.log_text(self.run_id, text, name)
            finally:
                if (status := _STATUS.get(ending.status)) is not None:
                    self.client.set_terminated(self.run_id, status, int(ending.time * 1000))

    def _create_run(self) -> Any:
        name = self.server.experiment
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        tags = {"mlflow.source.name": "ple-rec train"}
        return self.client.create_run(experiment_id, run_name=self.config.name, tags=tags)

    def _send_params(self) -> None:
        """Send the configuration as parameters; up to 100 values that a resumed run changed become tags.

        A server refuses to change parameters.
        """
        from mlflow.entities import Param, RunTag

        values = {_param_key(key): str(value)[:_MAX_VALUE_LENGTH] for key, value in flatten_config(self.config).items()}
        old: Mapping[str, str] = self.client.get_run(self.run_id).data.params if self._resumed else {}
        new = [Param(key, value) for key, value in values.items() if key not in old]
        changed = [RunTag(f"resumed.{key}", value) for key, value in values.items() if old.get(key, value) != value]
        for first in range(0, len(new), _MAX_PARAMS):
            self.client.log_batch(self.run_id, params=new[first : first + _MAX_PARAMS], synchronous=True)
        if changed:
            self.client.log_batch(self.run_id, tags=changed[:_MAX_PARAMS], synchronous=True)

    def _send_metrics(self, points: Sequence[tuple[dict[str, float], int, float]]) -> None:
        """Send the metrics of several records.

        Up to 1,000 metrics of one record are sent in one request, so the server has all or none of them.

        Args:
            points: Numbers by tag, step, and time in seconds since 1970, for each record.
        """
        from mlflow.entities import Metric

        batch: list[Any] = []
        for values, step, moment in points:
            point = [Metric(key, value, int(moment * 1000), step) for key, value in values.items()]
            if len(batch) + len(point) > _MAX_METRICS:
                self._log(batch)
                batch = []
            batch += point
        self._log(batch)

    def _log(self, metrics: Sequence[Any]) -> None:
        with _raise_unavailable():
            for first in range(0, len(metrics), _MAX_METRICS):
                self.client.log_batch(self.run_id, metrics=metrics[first : first + _MAX_METRICS], synchronous=True)


def _resumed_run(client: Any, server: MlflowConfig, run_dir: Location) -> Any:
    """Return the run that `mlflow.json` names, after setting it to RUNNING.

    None if the file is missing or damaged or names another server or experiment, or if the server has no such run or
    has deleted it.
    """
    from mlflow.exceptions import MlflowException

    try:
        saved = json.loads((run_dir / MLFLOW).read_text(encoding="utf-8"))
        if {key: saved[key] for key in ("tracking_uri", "experiment")} != server.model_dump():
            return None
        run = client.get_run(saved["run_id"])
    except (OSError, ValueError, LookupError, TypeError):
        # The earlier start had no MLflow logger, or the file is damaged.
        return None
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            return None
        raise
    if run.info.lifecycle_stage != "active":
        return None
    client.update_run(run.info.run_id, status="RUNNING")
    return run


@contextmanager
def _raise_unavailable() -> Iterator[None]:
    """Raise `LoggerUnavailableError` if the block fails with an error that a later attempt may not have.

    Raises:
        LoggerUnavailableError: The server cannot be reached, does not answer in time or is overloaded.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        status = error.get_http_status_code()
        if status >= 500 or status == 429:
            raise LoggerUnavailableError(_short_message(error)) from error
        raise


def _param_key(key: str) -> str:
    """Return a key without brackets, which the server refuses: `tasks[0].weight` becomes `tasks.0.weight`."""
    return key.replace("[", ".").replace("]", "")


def _short_message(error: BaseException) -> str:
    """Return the cause of a lost connection, without the attempts that the HTTP library lists, or else the message."""
    text = " ".join(str(error).split())
    causes = [cause for cause in ("Connection refused", "timed out", "Name or service not known") if cause in text]
    return causes[0].lower() if causes else text[:_MOST_SHOWN]
