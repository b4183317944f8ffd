"""Runs of a comparison and their outcomes.

`<root>/<variant>/seed-<n>` is a run's directory, `seed-<n>.toml` its configuration, `seed-<n>.log` its output, and
`seed-<n>.failed` the reason of its last failure. A run that was interrupted goes on from its last checkpoint.
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
from ple_rec.runs.checkpoints import checkpoint_place, prepare_directory
from ple_rec.runs.directory import hold_run
from ple_rec.runs.layout import TEST_ROWS, writing
from ple_rec.runs.state import check_place, inspect

# A comparison's directory has its configuration, with all overrides, in this file.
COMPARISON = "compare.toml"


@dataclass(frozen=True)
class VariantRun:
    """Run of a variant with one seed.

    Args:
        variant: Name of the variant.
        seed: Seed of the run.
        config: Configuration with the seed.
        directory: Directory of the run.
    """

    variant: str
    seed: int
    config: RunConfig
    directory: Path

    def beside(self, suffix: str) -> Path:
        """Return the path of the file beside the run's directory that has its name and a suffix."""
        return self.directory.with_name(f"{self.directory.name}{suffix}")


@dataclass
class RunOutcomes:
    """Outcomes of a comparison's runs.

    Args:
        metrics: Content of `metrics.json` of the finished runs, by variant and seed.
        failed: Reason of each failure, by variant and seed.
        missing: Number of runs that have neither finished nor failed.
    """

    metrics: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    missing: int = 0


def runs_of(matrix: Matrix, root: Path) -> list[VariantRun]:
    """Return every run of a comparison, in the order of `Matrix.runs`."""

    def run(variant: Variant, seed: int) -> VariantRun:
        return VariantRun(variant.name, seed, config_of_run(variant.config, seed), root / variant.name / f"seed-{seed}")

    return [run(variant, seed) for variant, seed in matrix.runs]


def left_of(matrix: Matrix, runs: Sequence[VariantRun], *, overwrite: bool, remove: bool = False) -> list[VariantRun]:
    """Return the runs that have not finished.

    Args:
        matrix: The comparison.
        runs: Runs of the comparison.
        overwrite: True to return runs whose directories hold a run of another configuration or dataset, too.
        remove: True to remove these foreign runs.

    Raises:
        UserError: A directory holds a foreign run without `overwrite`, or the checkpoints of a run to be removed lie in
            a place that another run has.
    """
    left = []
    for run in runs:
        state = state_of(matrix, run)
        if not overwrite:
            state.refuse_foreign()
        if state.kind == "foreign" and remove:
            # Its checkpoints may lie elsewhere; if they stayed, training would continue from them.
            check_place(inspect(run.config, run.directory), resuming=False, overwrite=True)
            with hold_run(run.directory, checkpoint_place(run.config, run.directory)) as directory:
                prepare_directory(run.config, directory, resuming=False)
            with writing(run.directory):
                shutil.rmtree(run.directory)
        if state.kind != "finished":
            left.append(run)
    return left


def outcomes_of(matrix: Matrix, runs: Sequence[VariantRun]) -> RunOutcomes:
    """Return the outcomes of runs; a run whose directory holds a run of other settings is missing."""
    outcomes = RunOutcomes()
    for run in runs:
        state = state_of(matrix, run)
        if state.kind == "finished":
            outcomes.metrics.setdefault(run.variant, {})[run.seed] = state.metrics
        elif state.kind == "failed":
            outcomes.failed.setdefault(run.variant, {})[run.seed] = state.reason
        else:
            outcomes.missing += 1
    return outcomes


def state_of(matrix: Matrix, run: VariantRun) -> SeriesRun:
    """Return the state of a run; it has finished only if it has its rows of the test split."""
    return inspect_run(run.directory, run.config, matrix.dataset, [TEST_ROWS])
