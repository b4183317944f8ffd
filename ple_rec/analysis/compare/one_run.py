"""Training and analysis of one run of a comparison, in the process of a worker (`ple_rec/cli/comparison_worker.py`).

Such a run gets more files than any other: those of `ple-rec analyze`, and `test_rows.npz` with the scores on the test
split, from which the comparison computes bootstrap intervals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ple_rec.analysis.analyze import analyze
from ple_rec.analysis.compare.equal_cost import CONFLICT_BATCHES
from ple_rec.analysis.conflict import ConflictInTraining
from ple_rec.analysis.result import Analysis
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.runs.directory import hold_run
from ple_rec.runs.layout import NAMES_OF_RUN, TEST_ROWS
from ple_rec.runs.state import inspect_directory
from ple_rec.training.run import train


def train_one(config: RunConfig, run_dir: Path, write_analysis: Callable[[Analysis, Path], object]) -> None:
    """Train a run, measure the gradient conflict of its tasks at every evaluation, and analyse it.

    If no `test_rows.npz` can be written, the error is raised and the run counts as failed, since intervals cannot be
    computed. If the rest of the analysis fails, a message goes to stderr and the run counts as finished. A trial, which
    is not evaluated on the test split, is trained without conflict and analysis.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run. An existing run there is resumed.
        write_analysis: Function that writes the files of the analysis into the directory.

    Raises:
        UserError, DataError, DivergedError: The training failed, or the analysis failed before it had written the rows.
    """
    if torch.cuda.is_available():
        # The same process may have trained another run before, whose peak memory does not count for this one.
        torch.cuda.reset_peak_memory_stats()
    _remove_files_of_other_settings(config, run_dir)
    if config.evaluation.test is False:
        train(config, run_dir, resume="auto")
        return
    train(config, run_dir, resume="auto", extra_metrics=ConflictInTraining(CONFLICT_BATCHES))
    # An earlier call has finished the run and written its rows.
    if (run_dir / TEST_ROWS).is_file():
        return
    try:
        write_analysis(analyze(run_dir, by=(), batches=CONFLICT_BATCHES), run_dir)
    except PleRecError as error:
        if not (run_dir / TEST_ROWS).is_file():
            raise
        sys.stderr.write(f"ple-rec: no analysis of this run: {error}\n")


def _remove_files_of_other_settings(config: RunConfig, run_dir: Path) -> None:
    """Remove what an earlier training with other settings left behind if it wrote no checkpoint.

    For example, that training may have diverged at once. Its files hold no result, but would be refused as those of
    another run.

    Raises:
        UserError: Another process trains in the directory.
    """
    state = inspect_directory(config, run_dir)
    if state.changes and not state.holds_run:
        with hold_run(run_dir, checkpoint_place(config, run_dir)) as run:
            run.remove(NAMES_OF_RUN)
