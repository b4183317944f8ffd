"""A run of a comparison: trained, or gone on with, and analysed, so that its rows of the test split are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ple_rec.analysis.analyze import analyze
from ple_rec.analysis.analyze_files import write_analysis
from ple_rec.analysis.compare.equal_cost import CONFLICT_BATCHES
from ple_rec.analysis.conflict import ConflictInTraining
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.runs.directory import hold_run
from ple_rec.runs.layout import OF_RUN, TEST_ROWS
from ple_rec.runs.state import inspect
from ple_rec.training.run import train


def train_one(config: RunConfig, run_dir: Path) -> None:
    """Train a run, with the conflict of its tasks at every evaluation, and analyse it as `ple-rec analyze` does.

    Without its rows of the test split a run would have no gains over resamples of it, and counts as failed. Without
    the rest of its analysis it lacks a page, which its log says. A trial, which is not evaluated on that split, is only
    trained.

    Raises:
        UserError, DataError, DivergedError: as `train`, and as `analyze` where no rows are kept.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of the run before
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
    """Remove what a start of other settings has left that came to no checkpoint, as one that diverged at once.

    Nothing is lost with it, and it could not be gone on with: the settings were changed because of it.

    Raises:
        UserError: another process trains there.
    """
    state = inspect(config, run_dir)
    if state.changes and not state.holds_run:
        with hold_run(run_dir, checkpoint_place(config, run_dir)) as run:
            run.remove(OF_RUN)
