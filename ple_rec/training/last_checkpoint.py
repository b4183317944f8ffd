"""Use of an interrupted run's newest checkpoint: its number of CPU threads, and a message how to resume from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.run import RunConfig
from ple_rec.distributed.process_group import Ranks
from ple_rec.runs.checkpoints import checkpoint_place
from ple_rec.storage import Location

logger = logging.getLogger(__name__)


def use_recorded_threads(config: RunConfig, written_by: Mapping[str, Any], ranks: Ranks) -> Ranks:
    """Use as many CPU threads as the run had before, since another number changes the last bits of sums.

    The number is not changed if `runtime.threads` sets it, if the checkpoint records none, or if the number of ranks
    differs, which changes the sums anyway.

    Args:
        config: Configuration of the run that resumes.
        written_by: Description of the run in the manifest of its newest checkpoint; empty without a checkpoint.
        ranks: Place of this process among the ranks, with its own number of threads.

    Returns:
        `ranks` with the number of threads that this process now uses.
    """
    threads = written_by.get("threads")
    same_ranks = written_by.get("ranks") == ranks.world_size
    if config.runtime.threads or not same_ranks or not isinstance(threads, int) or threads == ranks.threads:
        return ranks
    torch.set_num_threads(threads)
    if ranks.is_main:
        own = f"the default here is {ranks.threads}; set runtime.threads to use it, which changes the last bits of sums"
        logger.info(f"{threads} thread(s) a rank, as at the start of the run ({own})")
    return replace(ranks, threads=threads)


def describe_interrupted_run(config: RunConfig, run_dir: Location, ranks: int) -> str:
    """Return a message with the newest checkpoint of an interrupted run and the command line that resumes from it.

    Without a checkpoint, the message says that there is none.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        ranks: Number of ranks on this host.

    Raises:
        UserError: The directory of the checkpoints cannot be read.
        DataError: The file `latest` does not hold the name of a checkpoint.
    """
    newest = CheckpointStore(checkpoint_place(config, run_dir)).find("latest")
    if newest is None:
        return f"{run_dir}: no checkpoint is saved yet"
    more = f" --ranks {ranks}" if ranks > 1 else ""
    return f"{run_dir}: {newest.name} is saved; go on with: ple-rec train --run-dir {run_dir} --resume{more}"
