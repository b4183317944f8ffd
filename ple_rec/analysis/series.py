"""Runs of a series, which trains configurations with several seeds each: their directories and their state.

`ple-rec repeat` and `ple-rec compare` train such series. `inspect_run` says whether a run has finished, and whether its
directory holds a run of another configuration or dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ple_rec.config.diff import Difference, disallowed_differences
from ple_rec.config.load import fingerprint, load_config, with_values
from ple_rec.config.run import RunConfig
from ple_rec.errors import Option, UserError
from ple_rec.runs.layout import CONFIG, holds_run
from ple_rec.runs.read import RunFiles


def with_seed(config: RunConfig, seed: int) -> RunConfig:
    """Return the configuration of the run with one seed.

    A placeholder `{run}` in `checkpoint.path` becomes `<name>-seed-<n>`. The name of the run directory, `seed-<n>`,
    would not do, since it is the same for all configurations.

    Args:
        config: Configuration of all seeds, whose name is unique in the series.
        seed: Seed of the run.
    """
    values: dict[str, object] = {"seed": seed}
    if (path := config.checkpoint.path) is not None:
        values["checkpoint.path"] = path.replace("{run}", f"{config.name}-seed-{seed}")
    return with_values(config, values)


def check_checkpoints_apart(runs: Iterable[RunConfig]) -> None:
    """Raise an error if two runs would keep their checkpoints in one place.

    Args:
        runs: Configuration of every run, as `with_seed` returns it.

    Raises:
        UserError: Two runs have the same `checkpoint.path`.
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
# A message lists this many of the configuration's keys that differ.
_LISTED_KEYS = 5
# Keys that change no result.
_SAME_RESULTS = ("train.pipeline",)


@dataclass(frozen=True)
class SeriesRun:
    """State of a run of one configuration on one dataset.

    Args:
        directory: Directory of the run.
        kind: `finished` if it has metrics and the other files that `inspect_run` asks for; `failed` if a file beside
            the directory gives the reason; `unfinished` if the directory holds any other run of the configuration;
            `foreign` if it holds a run of another configuration or dataset; `absent` if it holds no run.
        metrics: Content of `metrics.json` of a finished run; empty for any other.
        reason: Reason of a failure, or text that says how a foreign run differs; else empty.
    """

    directory: Path
    kind: Literal["finished", "unfinished", "failed", "foreign", "absent"]
    metrics: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def refuse_foreign(self) -> None:
        """Raise an error if the directory holds a run of another configuration or dataset.

        Raises:
            UserError: The state is `foreign`.
        """
        if self.kind == "foreign":
            raise UserError(
                str(self.directory),
                f"holds {self.reason}",
                "a run is never overwritten unasked",
                f"call with its settings again, give another {Option.RUNS.with_value('DIR')}, or replace such runs "
                f"with {Option.OVERWRITE}",
            )


def inspect_run(run_dir: Path, config: RunConfig, dataset: str, files: Sequence[str] = ()) -> SeriesRun:
    """Return the state of the run of a configuration on a dataset, read from its directory.

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
    if exists and (difference := _settings_difference(run_dir, metrics, config, dataset)):
        return SeriesRun(run_dir, "foreign", reason=f"{'a finished' if metrics else 'an unfinished'} run {difference}")
    if metrics and all((run_dir / name).is_file() for name in files):
        return SeriesRun(run_dir, "finished", dict(metrics))
    failure = run_dir.with_name(run_dir.name + FAILED)
    if failure.is_file():
        return SeriesRun(run_dir, "failed", reason=failure.read_text(encoding="utf-8").strip())
    return SeriesRun(run_dir, "unfinished" if exists else "absent")


def _settings_difference(run_dir: Path, metrics: Mapping[str, Any], config: RunConfig, dataset: str) -> str:
    """Return a text that says how the run in a directory differs from a configuration and dataset; empty if equal.

    Only a finished run, whose metrics name its dataset, is compared with the dataset.
    """
    # The stored configuration is compared key by key, since its fingerprint lacks keys that were added after the run.
    stored = _config(run_dir / CONFIG)
    if stored is None and metrics.get("config_fingerprint") != fingerprint(config):
        return f"of another configuration (fingerprint is now {fingerprint(config)})"
    if stored is not None and (changes := disallowed_differences(stored, config, _SAME_RESULTS)):
        return f"of another configuration ({_changes_text(changes)})"
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


def _changes_text(changes: Sequence[Difference]) -> str:
    listed = "; ".join(f"{key} was {before!r}, is {now!r}" for key, before, now in changes[:_LISTED_KEYS])
    return listed + (f"; and {len(changes) - _LISTED_KEYS} more" if len(changes) > _LISTED_KEYS else "")
