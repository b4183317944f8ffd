"""Whether a run directory holds a finished run of a configuration, so that a series need not train it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ple_rec.config.diff import differences
from ple_rec.config.load import fingerprint, load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.train.results import mapping
from ple_rec.train.run_dir import CONFIG, METRICS, holds_run

_LISTED = 5  # keys that a refusal names


def finished_metrics(run_dir: Path, config: RunConfig, dataset: str, *, overwrite: bool) -> dict[str, Any] | None:
    """`metrics.json` of a finished run of this configuration and dataset; None where a run may start.

    It may where nothing was trained, over an unfinished run of this configuration, and with `overwrite`.

    Args:
        run_dir: Where the run lies.
        config: With its seed.
        dataset: Fingerprint of the dataset.
        overwrite: Whether a run of another configuration or dataset may be replaced.

    Raises:
        UserError: it holds a run of another configuration or dataset.
    """
    metrics = _metrics(run_dir / METRICS)
    if not metrics and not holds_run(run_dir):
        return None
    there = _config(run_dir / CONFIG)
    written_by = metrics.get("config_fingerprint") or (there and fingerprint(there))
    if written_by == fingerprint(config):
        if not metrics:
            return None
        written_for = metrics.get("dataset_fingerprint")
        if written_for == dataset:
            return metrics
        of = f"on another dataset (fingerprint {str(written_for)[:12]}; {config.data.path} has {dataset[:12]})"
    else:
        of = f"of another configuration ({_changed(there, config)})"
    if overwrite:
        return None
    raise UserError(
        str(run_dir),
        f"holds {'a finished' if metrics else 'an unfinished'} run {of}",
        "a run is never overwritten unasked",
        "call with its settings again, give another --runs DIR, or replace such runs with --overwrite",
    )


def _metrics(file: Path) -> dict[str, Any]:
    try:
        return dict(mapping(json.loads(file.read_text())))
    except (OSError, ValueError):
        return {}


def _config(file: Path) -> RunConfig | None:
    try:
        return load_config(RunConfig, file)
    except UserError:  # gone, or of a version with other keys
        return None


def _changed(there: RunConfig | None, config: RunConfig) -> str:
    keys = [] if there is None else differences(there, config)
    if not keys:
        return f"fingerprint is now {fingerprint(config)}"
    listed = "; ".join(f"{key} was {before!r}, is {now!r}" for key, before, now in keys[:_LISTED])
    return listed + (f"; and {len(keys) - _LISTED} more" if len(keys) > _LISTED else "")
