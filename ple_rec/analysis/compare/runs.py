"""Runs of a comparison, their directories and their outcomes.

A variant is one model configuration, and a run is one training of a variant with one seed. Its directory is
`<root>/<variant>/seed-<n>`. Beside it lie its configuration `seed-<n>.toml`, its output `seed-<n>.log`, and the reason
of its last failure, `seed-<n>.failed`. The caller resumes an interrupted run from its last checkpoint. A foreign run is
one of another configuration or dataset in such a directory.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.series import SeriesRun, inspect_run, with_seed
from ple_rec.config.run import RunConfig
from ple_rec.runs.checkpoints import checkpoint_place, prepare_directory
from ple_rec.runs.directory import hold_run
from ple_rec.runs.layout import TEST_ROWS, explain_write_errors
from ple_rec.runs.state import check_checkpoint_place, inspect_directory

# File that holds the configuration of a comparison and all overrides, in the comparison's directory.
COMPARISON_FILE = "compare.toml"


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

    def sibling_file(self, suffix: str) -> Path:
        """Return the path of the file beside the run's directory, such as `seed-0.log` for the suffix ".log"."""
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


def list_runs(matrix: Matrix, root: Path) -> list[VariantRun]:
    """Return every run of a comparison, in the order of `Matrix.runs`."""

    def run(variant: Variant, seed: int) -> VariantRun:
        return VariantRun(variant.name, seed, with_seed(variant.config, seed), root / variant.name / f"seed-{seed}")

    return [run(variant, seed) for variant, seed in matrix.runs]


def unfinished_runs(
    matrix: Matrix, runs: Sequence[VariantRun], *, overwrite: bool, remove: bool = False
) -> list[VariantRun]:
    """Return the runs that have not finished, the failed ones included.

    Args:
        matrix: The comparison.
        runs: Runs of the comparison.
        overwrite: True to count a run as unfinished if its directory holds a foreign run.
        remove: True to remove these foreign runs.

    Raises:
        UserError: A directory holds a foreign run and `overwrite` is False, or the checkpoints of a run to be removed
            lie where those of another run do.
    """
    left = []
    for run in runs:
        state = inspect_variant_run(matrix, run)
        if not overwrite:
            state.refuse_foreign()
        if state.kind == "foreign" and remove:
            # `prepare_directory` removes the checkpoints, which may lie outside the directory, at the place that
            # `run.config` names. If they stayed, training would continue from them.
            check_checkpoint_place(inspect_directory(run.config, run.directory), resuming=False, overwrite=True)
            with hold_run(run.directory, checkpoint_place(run.config, run.directory)) as directory:
                prepare_directory(run.config, directory, resuming=False)
            with explain_write_errors(run.directory):
                shutil.rmtree(run.directory)
        if state.kind != "finished":
            left.append(run)
    return left


def read_outcomes(matrix: Matrix, runs: Sequence[VariantRun]) -> RunOutcomes:
    """Return the outcomes of runs. A run whose directory holds a foreign run counts as missing."""
    outcomes = RunOutcomes()
    for run in runs:
        state = inspect_variant_run(matrix, run)
        if state.kind == "finished":
            outcomes.metrics.setdefault(run.variant, {})[run.seed] = state.metrics
        elif state.kind == "failed":
            outcomes.failed.setdefault(run.variant, {})[run.seed] = state.reason
        else:
            outcomes.missing += 1
    return outcomes


def inspect_variant_run(matrix: Matrix, run: VariantRun) -> SeriesRun:
    """Return the state of a run, which counts as finished only if its scores on the test split (`TEST_ROWS`) exist."""
    return inspect_run(run.directory, run.config, matrix.dataset_fingerprint, [TEST_ROWS])
