"""kill -9 of a rank at any moment, most often inside a save: the run that goes on ends with the bits of one left alone.

A moment is a share of the time that the whole run takes, drawn from a seed that a failure names.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from ple_rec.checkpoint.inspect import damages, entries
from ple_rec.train.job import assemble
from ple_rec.train.loop import train_steps
from tests.distributed import RankError
from tests.train.small import on_ranks, ranks_of, small_config, whole_state, write_small

State = dict[str, Tensor]


def _config(data: Path) -> Any:
    train = {"batch_size": 24, "steps": 18, "report_every": 2, "evaluate_every": 6}
    config = small_config(data, {"train": train, "checkpoint": {"every": 1, "keep": 2}})
    return config.model_copy(update={"model": config.model.model_copy(update={"dropout": 0.2})})


def _run(rank: int, world_size: int, data: Path, run_dir: Path, victim: int, delay: float) -> tuple[State, float]:
    """Train or go on; the victim is killed after a delay, counted from the first step's build on."""
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    job = assemble(_config(data), ranks_of(rank, world_size))
    if rank == victim:
        timer = threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    begun = time.monotonic()
    train_steps(job, run_dir, resume=(run_dir / "checkpoints").exists())
    return whole_state(job), time.monotonic() - begun


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[State, float]]]:
    """A folder with `data`, and what a run of two ranks that nobody kills comes to."""
    folder = tmp_path_factory.mktemp("kills")
    write_small(folder / "data")
    return folder, on_ranks(_run, 2, folder / "data", folder / "whole", -1, 0.0)


def _killed(folder: Path, run_dir: Path, victim: int, delay: float) -> bool:
    """Whether the kill came before the end of the run, and was all that went wrong."""
    try:
        on_ranks(_run, 2, folder / "data", run_dir, victim, delay)
    except RankError as error:
        said = str(error)
    else:
        return False
    assert f"rank {victim} failed" in said, said
    assert "exit code -9" in said, said
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("moments", "seed"), [(3, 0), (20, 1)], ids=["three", "twenty"])
def test_the_same_bits_whenever_a_rank_is_killed(
    moments: int, seed: int, whole: tuple[Path, list[tuple[State, float]]]
) -> None:
    folder, expected = whole
    seconds, draw, died = max(time for _, time in expected), random.Random(seed), 0
    for i in range(moments):
        run_dir, victim, delay = folder / f"killed-{seed}-{i}", draw.randrange(2), draw.random() * seconds
        died += _killed(folder, run_dir, victim, delay)
        died += _killed(folder, run_dir, 1 - victim, draw.random() * seconds / 2)  # and again as it goes on
        for entry in entries(run_dir / "checkpoints"):
            assert list(damages(entry.path)) == [], (i, victim, delay)
        found = on_ranks(_run, 2, folder / "data", run_dir, -1, 0.0)
        for (state, _), (wanted, _) in zip(found, expected, strict=True):
            assert state.keys() == wanted.keys()
            assert [key for key in state if not state[key].equal(wanted[key])] == [], (i, victim, delay)
    assert died >= moments  # not all came too late
