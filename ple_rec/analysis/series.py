"""The runs of a series, which is one configuration or several with some seeds each, and what their directories hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ple_rec.config.diff import differences
from ple_rec.config.load import fingerprint, load_config, with_values
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import CONFIG, METRICS, holds_run
from ple_rec.runs.results import mapping


def config_of_run(config: RunConfig, seed: int) -> RunConfig:
    """Return the configuration of one run: with its seed, and with `<name>-seed-<n>` for `{run}` in `checkpoint.path`.

    Its directory is named `seed-<n>`, as that of every other configuration of the series.

    Args:
        config: Configuration of all seeds, whose name no other one of the series bears.
        seed: Seed of the run.
    """
    values: dict[str, object] = {"seed": seed}
    if (path := config.checkpoint.path) is not None:
        values["checkpoint.path"] = path.replace("{run}", f"{config.name}-seed-{seed}")
    return with_values(config, values)


def check_checkpoints_apart(runs: Iterable[RunConfig]) -> None:
    """Refuse runs that would keep their checkpoints in one place.

    Args:
        runs: Configuration of every run, as `config_of_run` returns it.

    Raises:
        UserError: two runs have the same `checkpoint.path`.
    """
    seen: dict[str, str] = {}
    for run in runs:
        name, path = f"{run.name} seed {run.seed}", run.checkpoint.path
        if path is None:
            continue
        place = path.rstrip("/") if "://" in path else str(Path(path).resolve())
        if (other := seen.setdefault(place, name)) != name:
            raise UserError(
                "checkpoint.path",
                f'got "{path}" for {other} and {name}',
                "each run of a series has a place of its own for its checkpoints",
                f'give "{path.rstrip("/")}/{{run}}", in which {{run}} stands for NAME-seed-N',
            )


FAILED = ".failed"  # ends the name of a file beside a run's directory that says why the run failed
_LISTED = 5  # keys that a refusal names


@dataclass(frozen=True)
class SeriesRun:
    """State of a run of one configuration and dataset.

    Args:
        directory: Directory of the run.
        kind: `finished`, or `unfinished` where it may go on; `failed` where a file beside it says why; `foreign` where
            the directory holds a run of another configuration or dataset; `absent` where there is nothing to lose.
        metrics: Content of `metrics.json` of a finished run.
        reason: Why it failed, or what the foreign run is.
    """

    directory: Path
    kind: Literal["finished", "unfinished", "failed", "foreign", "absent"]
    metrics: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def refuse_foreign(self) -> None:
        """Refuse to replace a run of other settings.

        Raises:
            UserError: The directory holds one.
        """
        if self.kind == "foreign":
            raise UserError(
                str(self.directory),
                f"holds {self.reason}",
                "a run is never overwritten unasked",
                f"call with its settings again, give another {Option.RUNS.to('DIR')}, or replace such runs with "
                f"{Option.OVERWRITE}",
            )


def inspect_run(run_dir: Path, config: RunConfig, dataset: str, files: Sequence[str] = ()) -> SeriesRun:
    """Look at what a directory holds of the run of a configuration on a dataset.

    Args:
        run_dir: Directory of the run.
        config: Configuration with its seed.
        dataset: Fingerprint of the dataset.
        files: Names of files that a finished run has beside `metrics.json`.

    Raises:
        UserError: The checkpoints lie in a store that cannot be read.
    """
    metrics = _metrics(run_dir / METRICS)
    there = bool(metrics) or holds_run(run_dir)
    if there and (other := _other_settings(run_dir, metrics, config, dataset)):
        return SeriesRun(run_dir, "foreign", reason=f"{'a finished' if metrics else 'an unfinished'} run {other}")
    if metrics and all((run_dir / name).is_file() for name in files):
        return SeriesRun(run_dir, "finished", metrics)
    failure = run_dir.with_name(run_dir.name + FAILED)
    if failure.is_file():
        return SeriesRun(run_dir, "failed", reason=failure.read_text().strip())
    return SeriesRun(run_dir, "unfinished" if there else "absent")


def _other_settings(run_dir: Path, metrics: Mapping[str, Any], config: RunConfig, dataset: str) -> str:
    """Return how a run that is there differs from the one that is asked for; empty where it does not."""
    there = _config(run_dir / CONFIG)
    written_by = metrics.get("config_fingerprint") or (there and fingerprint(there))
    if written_by != fingerprint(config):
        return f"of another configuration ({_changed(there, config)})"
    written_for = metrics.get("dataset_fingerprint") if metrics else dataset
    if written_for != dataset:
        return f"on another dataset (fingerprint {str(written_for)[:12]}; {config.data.path} has {dataset[:12]})"
    return ""


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
