"""The runs of a comparison: which have finished, the others trained, and what became of each.

`<root>/<variant>/seed-<n>` is a run's directory, `seed-<n>.toml` its configuration, `seed-<n>.log` what it printed, and
`seed-<n>.failed` why it failed last. A run that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.gain import METRICS
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.time_left import TimeLeft
from ple_rec.analysis.compare.workers import Outcome, Workers, wait_for_some
from ple_rec.analysis.run_state import FAILED, RunState, inspect_run
from ple_rec.analysis.series import config_of_run
from ple_rec.config.load import dump_toml
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import Task
from ple_rec.text.units import metric_text
from ple_rec.training.checkpoints import claim_checkpoints
from ple_rec.training.run_dir import TEST_ROWS, write_text, writing
from ple_rec.training.run_state import check_place, inspect

logger = logging.getLogger(__name__)

COMPARISON = "compare.toml"  # in its directory: the comparison as it was trained


@dataclass(frozen=True)
class Run:
    """A variant with a seed.

    Args:
        variant: Its name.
        seed: The seed.
        config: With the seed.
        directory: Of the run.
    """

    variant: str
    seed: int
    config: RunConfig
    directory: Path

    def beside(self, suffix: str) -> Path:
        """A file beside the run's directory."""
        return self.directory.with_name(f"{self.directory.name}{suffix}")


@dataclass
class Done:
    """What there is of a comparison.

    Args:
        metrics: `metrics.json` of the finished runs, by variant and seed.
        failed: Why the others failed, those that did.
        missing: How many have neither finished nor failed.
    """

    metrics: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    missing: int = 0


def runs_of(matrix: Matrix, root: Path) -> list[Run]:
    """Every run, in the order of `Matrix.runs`."""

    def run(variant: Variant, seed: int) -> Run:
        return Run(variant.name, seed, config_of_run(variant.config, seed), root / variant.name / f"seed-{seed}")

    return [run(variant, seed) for variant, seed in matrix.runs]


def left_of(matrix: Matrix, runs: Sequence[Run], *, overwrite: bool, remove: bool = False) -> list[Run]:
    """The runs that have not finished. With `overwrite`, those of another configuration or dataset count among them.

    They are removed with `remove`.

    Raises:
        UserError: a directory holds such a run, and `overwrite` is not given; or the checkpoints of a run to be removed
            lie in a place that another run has.
    """
    left = []
    for run in runs:
        state = state_of(matrix, run)
        if not overwrite:
            state.refuse_foreign()
        if state.kind == "foreign" and remove:  # its checkpoints too, wherever they are, or it would go on from them
            check_place(inspect(run.config, run.directory), resuming=False, overwrite=True)
            claim_checkpoints(run.config, run.directory, overwrite=True)
            with writing(run.directory):
                shutil.rmtree(run.directory)
        if state.kind != "finished":
            left.append(run)
    return left


def train_runs(
    tasks: Sequence[Task],
    runs: Sequence[Run],
    workers: Workers,
    until: float | None = None,
) -> None:
    """Train runs; one that fails is noted, and the others go on.

    Args:
        tasks: Of all runs.
        runs: To be trained, in this order.
        workers: That train them.
        until: No run is started after this time (`time.monotonic`).

    Raises:
        UserError: a file cannot be written.
    """
    waiting: dict[Future[Outcome | None], Run] = {}
    for run in runs:
        waiting[submit_run(run, workers, until)] = run
    time_left, ended, late = TimeLeft(workers.jobs), 0, 0
    time_left.note_running(waiting)
    while waiting:
        for future in wait_for_some(waiting):
            run, outcome = waiting.pop(future), future.result()
            if outcome is None:
                late += 1
                continue
            if outcome.code:
                write_text(run.beside(FAILED), outcome.message + "\n")
            ended += 1
            time_left.note_ended(run.variant, outcome)
            eta = time_left.text({future: run.variant for future, run in waiting.items()})
            what = f"{run.variant}, seed {run.seed}: {_words(tasks, run, outcome)}"
            logger.info(f"run {ended} of {ended + len(waiting)}{eta}: {what}")
    if late:
        logger.info(f"the time is up: {late} run(s) are left for the next call")


def submit_run(run: Run, workers: Workers, until: float | None = None) -> Future[Outcome | None]:
    """Hand a run to the workers, its configuration beside its directory.

    Args:
        run: To be trained.
        workers: That train it.
        until: It is not started after this time (`time.monotonic`).

    Raises:
        UserError: a file cannot be written.
    """
    with writing(run.directory.parent):
        run.directory.parent.mkdir(parents=True, exist_ok=True)
        run.beside(FAILED).unlink(missing_ok=True)
    write_text(run.beside(".toml"), dump_toml(run.config))
    return workers.submit(run.beside(".toml"), run.directory, run.beside(".log"), until)


def done_of(matrix: Matrix, runs: Sequence[Run]) -> Done:
    """Return what there is of every run; one whose directory holds a run of other settings is missing."""
    done = Done()
    for run in runs:
        state = state_of(matrix, run)
        if state.kind == "finished":
            done.metrics.setdefault(run.variant, {})[run.seed] = state.metrics
        elif state.kind == "failed":
            done.failed.setdefault(run.variant, {})[run.seed] = state.reason
        else:
            done.missing += 1
    return done


def state_of(matrix: Matrix, run: Run) -> RunState:
    """Return the state of a run; one that has finished keeps its rows of the test split."""
    return inspect_run(run.directory, run.config, matrix.dataset, [TEST_ROWS])


def _words(tasks: Sequence[Task], run: Run, outcome: Outcome) -> str:
    """Its metrics, or why there are none."""
    if outcome.code:
        return f"failed: {outcome.message}"
    found: Mapping[str, Any] = json.loads((run.directory / "metrics.json").read_text())["test"]["tasks"]
    values = [(task.name, METRICS[task.kind], found[task.name].get(METRICS[task.kind])) for task in tasks]
    return ", ".join(f"{name} {metric} {'-' if v is None else metric_text(v)}" for name, metric, v in values)
