"""A run of a comparison: trained, or gone on with, and its rows of the test split kept."""

from __future__ import annotations

from pathlib import Path

import torch

from ple_rec.analysis.test_rows import collect
from ple_rec.config.run import RunConfig
from ple_rec.train.run import train
from ple_rec.train.run_dir import TEST_ROWS


def train_one(config: RunConfig, run_dir: Path) -> None:
    """Train a run and keep what it says of every row of the test split, where it is evaluated there.

    Raises:
        UserError, DataError, DivergedError: as `train`.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # of the run before
    train(config, run_dir, resume="auto")
    if config.evaluation.test is not False and not (run_dir / TEST_ROWS).is_file():
        collect(run_dir)
