"""Reader of the configuration and the results of a finished run, for an analysis of the run.

A run is one training. Its directory has `metrics.json` once the run has finished and its model has been evaluated.
A run without this file cannot be analysed, and the error says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.run import RunConfig
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import DataError, UserError, overrides_text
from ple_rec.runs.layout import METRICS
from ple_rec.runs.record import read_record
from ple_rec.storage import Location
from ple_rec.training.preflight import load_run_config

_FINISHED_RULE = "only a run that has finished and been evaluated can be analysed"


def load_finished_run(run_dir: Location, overrides: Sequence[str] = ()) -> tuple[RunConfig, Mapping[str, Any]]:
    """Return the configuration of a finished run and the content of its `metrics.json`.

    Args:
        run_dir: Directory of the run.
        overrides: Changes to the configuration, for example `data.path=other`; they are limited to keys that an
            evaluation may change.

    Raises:
        UserError: The directory has no run, the run has not finished, an override is wrong, or the dataset is not the
            one on which the run was evaluated.
        DataError: The run's `metrics.json` is damaged.
    """
    config = load_run_config(run_dir, overrides)
    record = read_record(run_dir)
    if record.status != "finished":
        step_text = "" if record.step is None else f" at step {record.step:,}"
        fix = "wait for its end" if record.status == "running" else f"`ple-rec train --resume --run-dir {run_dir}`"
        raise UserError(str(run_dir), f"{record.status}{step_text}", _FINISHED_RULE, fix)
    if not record.metrics:
        fix = f"`ple-rec train --resume --run-dir {run_dir}` evaluates it again"
        raise DataError(str(run_dir / METRICS), "damaged", _FINISHED_RULE, fix)
    evaluated, current = (
        record.metrics.get("dataset_fingerprint"),
        DatasetDirectory(config.data.path).schema.fingerprint,
    )
    # Results without a fingerprint do not say on which dataset they were computed, so they are accepted.
    if evaluated not in (None, current):
        raise UserError(
            config.data.path,
            f"fingerprint {current}",
            f"the results of {run_dir} are of dataset {evaluated}, and an analysis of them needs the same one",
            f"give the dataset of the run by {overrides_text('data.path=...')}; `ple-rec evaluate` takes others",
        )
    return config, record.metrics
