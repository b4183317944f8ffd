"""Runs of a series: configurations with several seeds each, and the state of their directories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ple_rec.config.diff import differences
from ple_rec.config.load import fingerprint, load_config, with_values
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import CONFIG, holds_run
from ple_rec.runs.read import RunFiles


def config_of_run(config: RunConfig, seed: int) -> RunConfig:
    """Return the configuration of one run: with its seed, and with `<name>-seed-<n>` for `{run}` in `checkpoint.path`.

    Every configuration has a directory `seed-<n>`, so the name of the directory does not tell its runs apart.

    Args:
        config: Configuration of all seeds, whose name is unique in the series.
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


# A file with this suffix beside a run's directory says why the run failed.
FAILED = ".failed"
_LISTED_KEYS = 5


@dataclass(frozen=True)
class SeriesRun:
    """State of a run of one configuration and dataset.

    Args:
        directory: Directory of the run.
        kind: `finished`; `unfinished` if it may go on; `failed` if a file beside it says why; `foreign` if the
            directory holds a run of another configuration or dataset; `absent` if there is nothing to lose.
        metrics: Content of `metrics.json` of a finished run.
        reason: Reason of a failure, or description of the foreign run.
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
    """Return the state of a configuration's run on a dataset, from its directory.

    Args:
        run_dir: Directory of the run.
        config: Configuration with its seed.
        dataset: Fingerprint of the dataset.
        files: Names of files that a finished run must have beside `metrics.json`.

    Raises:
        UserError: The checkpoints lie in a store that cannot be read.
    """
    metrics = RunFiles(run_dir).metrics
    exists = bool(metrics) or holds_run(run_dir)
    if exists and (difference := _other_settings(run_dir, metrics, config, dataset)):
        return SeriesRun(run_dir, "foreign", reason=f"{'a finished' if metrics else 'an unfinished'} run {difference}")
    if metrics and all((run_dir / name).is_file() for name in files):
        return SeriesRun(run_dir, "finished", dict(metrics))
    failure = run_dir.with_name(run_dir.name + FAILED)
    if failure.is_file():
        return SeriesRun(run_dir, "failed", reason=failure.read_text().strip())
    return SeriesRun(run_dir, "unfinished" if exists else "absent")


def _other_settings(run_dir: Path, metrics: Mapping[str, Any], config: RunConfig, dataset: str) -> str:
    """Return how the run in a directory differs from a configuration and dataset; empty if it does not."""
    stored = _config(run_dir / CONFIG)
    config_fingerprint = metrics.get("config_fingerprint") or (stored and fingerprint(stored))
    if config_fingerprint != fingerprint(config):
        return f"of another configuration ({_changes(stored, config)})"
    data_fingerprint = metrics.get("dataset_fingerprint") if metrics else dataset
    if data_fingerprint != dataset:
        return f"on another dataset (fingerprint {str(data_fingerprint)[:12]}; {config.data.path} has {dataset[:12]})"
    return ""


def _config(file: Path) -> RunConfig | None:
    try:
        return load_config(RunConfig, file)
    # The file is gone, or another version with other keys has written it.
    except UserError:
        return None


def _changes(stored: RunConfig | None, config: RunConfig) -> str:
    keys = [] if stored is None else differences(stored, config)
    if not keys:
        return f"fingerprint is now {fingerprint(config)}"
    listed = "; ".join(f"{key} was {before!r}, is {now!r}" for key, before, now in keys[:_LISTED_KEYS])
    return listed + (f"; and {len(keys) - _LISTED_KEYS} more" if len(keys) > _LISTED_KEYS else "")
