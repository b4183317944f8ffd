"""The runs of a comparison: which have finished, and what became of the others.

`<root>/<variant>/seed-<n>` is a run's directory, `seed-<n>.toml` its configuration, `seed-<n>.log` what it printed, and
`seed-<n>.failed` why it failed last. A run that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.series import SeriesRun, config_of_run, inspect_run
from ple_rec.config.run import RunConfig
from ple_rec.runs.checkpoints import checkpoint_place, take_over
from ple_rec.runs.directory import hold_run
from ple_rec.runs.layout import TEST_ROWS, writing
from ple_rec.runs.state import check_place, inspect

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
            with hold_run(run.directory, checkpoint_place(run.config, run.directory)) as held:
                take_over(run.config, held, resuming=False)
            with writing(run.directory):
                shutil.rmtree(run.directory)
        if state.kind != "finished":
            left.append(run)
    return left


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


def state_of(matrix: Matrix, run: Run) -> SeriesRun:
    """Return the state of a run; one that has finished keeps its rows of the test split."""
    return inspect_run(run.directory, run.config, matrix.dataset, [TEST_ROWS])
