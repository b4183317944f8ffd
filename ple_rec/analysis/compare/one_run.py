"""Training and analysis of one run of a comparison, which keeps its rows of the test split."""

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
from ple_rec.runs.layout import OF_RUN, TEST_ROWS
from ple_rec.runs.state import inspect
from ple_rec.training.run import train


def train_one(config: RunConfig, run_dir: Path, write_analysis: Callable[[Analysis, Path], object]) -> None:
    """Train a run, with the conflict of its tasks at every evaluation, and analyse it as `ple-rec analyze` does.

    Intervals over resamples need the rows of the test split, so a run without them counts as failed. A run without the
    rest of its analysis lacks a page, and its log says so. A trial is not evaluated on that split, so it is trained
    alone.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run, new or not.
        write_analysis: Function that writes the files of the analysis into the directory.

    Raises:
        UserError, DataError, DivergedError: `train` raises it, or `analyze` does before it has written the rows.
    """
    if torch.cuda.is_available():
        # The process may have trained another run before.
        torch.cuda.reset_peak_memory_stats()
    _drop_other_start(config, run_dir)
    if config.evaluation.test is False:
        train(config, run_dir, resume="auto")
        return
    train(config, run_dir, resume="auto", extra_metrics=ConflictInTraining(CONFLICT_BATCHES))
    if (run_dir / TEST_ROWS).is_file():
        return
    try:
        write_analysis(analyze(run_dir, by=(), batches=CONFLICT_BATCHES), run_dir)
    except PleRecError as error:
        if not (run_dir / TEST_ROWS).is_file():
            raise
        sys.stderr.write(f"ple-rec: no analysis of this run: {error}\n")


def _drop_other_start(config: RunConfig, run_dir: Path) -> None:
    """Remove the files of a start with other settings that wrote no checkpoint, such as one that diverged at once.

    Training could not continue from it, and nothing is lost.

    Raises:
        UserError: Another process trains in the directory.
    """
    state = inspect(config, run_dir)
    if state.changes and not state.holds_run:
        with hold_run(run_dir, checkpoint_place(config, run_dir)) as run:
            run.remove(OF_RUN)
