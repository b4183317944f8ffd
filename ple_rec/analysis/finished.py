"""A finished run: its configuration and its results, or why there are none to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.run import RunConfig
from ple_rec.data.dataset import Dataset
from ple_rec.errors import DataError, UserError, settings
from ple_rec.runs.layout import METRICS
from ple_rec.runs.record import read_record
from ple_rec.storage import Location
from ple_rec.training.preflight import check_run

_RESULTS = "what is analysed are the best weights of a run that has been evaluated"


def finished_run(run_dir: Location, overrides: Sequence[str] = ()) -> tuple[RunConfig, Mapping[str, Any]]:
    """Configuration and `metrics.json` of a run that has finished.

    Args:
        run_dir: Directory of the run.
        overrides: `a.b=c`, of what an evaluation may change.

    Raises:
        UserError: there is no run, it has not finished, an override is wrong, or the dataset is another one.
        DataError: its `metrics.json` is damaged.
    """
    config = check_run(run_dir, overrides)
    record = read_record(run_dir)
    if record.status != "finished":
        at = "" if record.step is None else f" at step {record.step:,}"
        fix = "wait for its end" if record.status == "running" else f"`ple-rec train --resume --run-dir {run_dir}`"
        raise UserError(str(run_dir), f"{record.status}{at}", _RESULTS, fix)
    if not record.metrics:
        fix = f"`ple-rec train --resume --run-dir {run_dir}` evaluates it again"
        raise DataError(str(run_dir / METRICS), "damaged", _RESULTS, fix)
    evaluated, found = record.metrics.get("dataset_fingerprint"), Dataset(config.data.path).schema.fingerprint
    if evaluated not in (None, found):
        raise UserError(
            config.data.path,
            f"fingerprint {found}",
            f"the results of {run_dir} are of dataset {evaluated}, and what is made of them stands beside them",
            f"give the dataset of the run by {settings('data.path=...')}; `ple-rec evaluate` takes others",
        )
    return config, record.metrics
