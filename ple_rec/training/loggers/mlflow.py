"""A run of an MLflow server: configuration as parameters, records and results as metrics, report as artifact.

The run's id is kept in `mlflow.json` of the run directory: a run that goes on goes on there too. What the server holds
of a step stays (it deletes no metric), and what it lacks of the past is sent from `train.jsonl`.
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
    Record,
    TimedRecord,
    UnavailableError,
    final_scalars,
    flat,
    scalars,
)

# Limits of MLflow's REST interface: characters of a value, entries of a request.
_VALUE, _PARAMS, _METRICS = 6000, 100, 1000
# Of a run that is preempted the server is not told: it stays RUNNING, and goes on.
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
# A request's patience, since `Background` tries again; and no word to anyone but the server of the run, nor to stdout.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_KEY = "watch.mlflow.tracking_uri"
_SHOWN = 300  # characters of a cause that a message repeats


def check_installed() -> None:
    """Refuse `[watch.mlflow]` without MLflow's client.

    Raises:
        UserError: it cannot be imported.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    try:
        import mlflow.tracking  # noqa: F401
    except Exception as error:  # a broken installation may fail by more than ImportError
        raise UserError(
            "watch.mlflow",
            f"mlflow cannot be imported ({_short(error)})",
            "it speaks to the server",
            "install it (pip install mlflow-skinny), or leave the section out",
        ) from error


def connect(config: MlflowConfig) -> Any:
    """A client of a server that answers.

    Raises:
        UserError: it does not, within the seconds of MLFLOW_HTTP_REQUEST_TIMEOUT (5 unless set), or mlflow is missing.
    """
    check_installed()
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=config.tracking_uri)
        experiment = client.get_experiment_by_name(config.experiment)
    except Exception as error:  # the client's own, the HTTP library's and the credentials' stores' errors
        status = getattr(error, "get_http_status_code", lambda: 500)()
        found = "whose server refuses" if 400 <= status < 500 else "where no MLflow server answers"
        raise UserError(
            _KEY,
            f"got {config.tracking_uri!r}, {found} ({_short(error)})",
            "it answers before a run that it is to watch starts",
            "start the server, correct the address or the credentials, or leave the section [watch.mlflow] out",
        ) from error
    if experiment is not None and experiment.lifecycle_stage != "active":
        raise UserError(
            "watch.mlflow.experiment",
            f"got {config.experiment!r}, which has been deleted on the server",
            "an experiment that takes a run is not deleted",
            "restore it there, or name another",
        )
    return client


class Mlflow:
    """Makes the run on the server, or goes on with it.

    Args:
        config: Of the run, with `watch.mlflow`.
        run: Directory of the run.
        resume: Go on with the run that `mlflow.json` names, where the server still has it.

    Raises:
        UserError: the server does not answer, or refuses the run.
    """

    name = "mlflow"
    recovery = "train.jsonl and metrics.json have it all, and --resume sends it"

    def __init__(self, config: RunConfig, run: RunDirectory, *, resume: bool) -> None:
        assert config.watch.mlflow is not None
        self.config, self.server = config, config.watch.mlflow
        self.client = connect(self.server)
        try:
            earlier = _earlier(self.client, self.server, run.address) if resume else None
            info = (earlier or self._created()).info
        except Exception as error:  # as in `connect`
            raise UserError(
                _KEY,
                f"got {self.server.tracking_uri!r}, which refuses the run ({_short(error)})",
                "the run is made there before it starts",
                "correct what the server names, or leave the section [watch.mlflow] out",
            ) from error
        self.run_id, self.experiment_id = info.run_id, info.experiment_id
        saved = {**self.server.model_dump(), "experiment_id": self.experiment_id, "run_id": self.run_id}
        run.write_json(MLFLOW, saved)
        self._resumed = earlier is not None
        self._held: set[tuple[str, int]] = set()

    @property
    def place(self) -> str:
        """The page of the run."""
        uri = self.server.tracking_uri.rstrip("/")
        return f"{uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def begin(self, step: int, past: Sequence[Record]) -> None:
        """Send the configuration, and what the server lacks of the past."""
        with _answering():
            if self._resumed or past:
                for split, key in (("train", "train/loss"), ("valid", "valid/loss"), (FINAL, f"{FINAL}/steps")):
                    self._held |= {(split, m.step) for m in self.client.get_metric_history(self.run_id, key)}
        now = time.time()
        self.log([TimedRecord(now, record) for record in past])
        with _answering():
            self._send_params()
            self.client.log_text(self.run_id, dump_toml(self.config), CONFIG)

    def log(self, records: Sequence[TimedRecord]) -> None:
        """Send the records that the server does not hold yet."""
        new = [(t, r) for t, r in records if (r["split"], r["step"]) not in self._held]
        self._send_metrics([(scalars(record), record["step"], moment) for moment, record in new])

    def end(self, ending: Ending) -> None:
        """Send results and files, and close the run whether or not the files could be sent, unless it will go on."""
        with _answering():
            if ending.metrics and (FINAL, ending.metrics["steps"]) not in self._held:
                self._send_metrics([(final_scalars(ending.metrics), ending.metrics["steps"], ending.time)])
            try:
                for name, text in ending.files.items():
                    self.client.log_text(self.run_id, text, name)
            finally:
                if (status := _STATUS.get(ending.status)) is not None:
                    self.client.set_terminated(self.run_id, status, int(ending.time * 1000))

    def _created(self) -> Any:
        name = self.server.experiment
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
        tags = {"mlflow.source.name": "ple-rec train"}
        return self.client.create_run(experiment_id, run_name=self.config.name, tags=tags)

    def _send_params(self) -> None:
        """Parameters of a run cannot change on a server; what a run that goes on changes becomes a tag."""
        from mlflow.entities import Param, RunTag

        values = {_key(key): str(value)[:_VALUE] for key, value in flat(self.config).items()}
        held: Mapping[str, str] = self.client.get_run(self.run_id).data.params if self._resumed else {}
        new = [Param(key, value) for key, value in values.items() if key not in held]
        changed = [RunTag(f"resumed.{key}", value) for key, value in values.items() if held.get(key, value) != value]
        for first in range(0, len(new), _PARAMS):
            self.client.log_batch(self.run_id, params=new[first : first + _PARAMS], synchronous=True)
        if changed:
            self.client.log_batch(self.run_id, tags=changed[:_PARAMS], synchronous=True)

    def _send_metrics(self, points: Sequence[tuple[dict[str, float], int, float]]) -> None:
        """Send (numbers by tag, step, seconds since 1970), each whole in one request: a step is there or is not."""
        from mlflow.entities import Metric

        batch: list[Any] = []
        for values, step, moment in points:
            point = [Metric(key, value, int(moment * 1000), step) for key, value in values.items()]
            if len(batch) + len(point) > _METRICS:
                self._log(batch)
                batch = []
            batch += point
        self._log(batch)

    def _log(self, metrics: Sequence[Any]) -> None:
        with _answering():
            for first in range(0, len(metrics), _METRICS):
                self.client.log_batch(self.run_id, metrics=metrics[first : first + _METRICS], synchronous=True)


def _earlier(client: Any, server: MlflowConfig, run_dir: Location) -> Any:
    """Return the run that `mlflow.json` names, set running again; None if the server has no such run."""
    from mlflow.exceptions import MlflowException

    try:
        saved = json.loads((run_dir / MLFLOW).read_text())
        if {key: saved[key] for key in ("tracking_uri", "experiment")} != server.model_dump():
            return None
        run = client.get_run(saved["run_id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None  # the earlier start was not watched, or the file is damaged
    except MlflowException as error:
        if error.get_http_status_code() == 404:
            return None
        raise
    if run.info.lifecycle_stage != "active":
        return None
    client.update_run(run.info.run_id, status="RUNNING")
    return run


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what may pass (no connection, no answer in time, an overloaded server) into `UnavailableError`.

    Raises:
        UnavailableError: it is not the request's fault.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        status = error.get_http_status_code()
        if status >= 500 or status == 429:
            raise UnavailableError(_short(error)) from error
        raise


def _key(key: str) -> str:
    """`tasks[0].weight` as `tasks.0.weight`: the server takes no brackets."""
    return key.replace("[", ".").replace("]", "")


def _short(error: BaseException) -> str:
    """What is wrong, without the HTTP library's account of its tries."""
    text = " ".join(str(error).split())
    known = [cause for cause in ("Connection refused", "timed out", "Name or service not known") if cause in text]
    return known[0].lower() if known else text[:_SHOWN]
