"""kill -9 of a rank at any moment, most often inside a save: the run that goes on ends with the bits of one left alone.

A moment is one of the marks that a rank makes, before each batch, step, evaluation and save and after each block that
is written, and some milliseconds after it, drawn from a seed that a failure names.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from ple_rec.checkpoint.inspect import find_damages, finished_checkpoints
from ple_rec.distributed.watchdog import StallWatch
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import build_context
from ple_rec.training.loop import train_steps
from tests.rank_processes import RankError
from tests.training.small import on_ranks, ranks_of, small_config, whole_state, write_small

State = dict[str, Tensor]


def _config(data: Path, asynchronous: bool) -> Any:
    train = {"batch_size": 24, "steps": 18, "report_every": 2, "evaluate_every": 6}
    kept = {"every": 1, "keep": 2, "asynchronous": asynchronous}
    config = small_config(data, {"train": train, "checkpoint": kept})
    return config.model_copy(update={"model": config.model.model_copy(update={"dropout": 0.2})})


class _Fuse(StallWatch):
    """Counts the marks of a rank, and kills it some milliseconds after one of them."""

    def __init__(self, at: int, delay: float) -> None:
        super().__init__()
        self.at, self.delay, self.marks = at, delay, 0

    def mark(self, doing: str) -> None:
        self._burn()

    def touch(self) -> None:
        self._burn()

    def _burn(self) -> None:
        self.marks += 1
        if self.marks == self.at:
            timer = threading.Timer(self.delay, lambda: os.kill(os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()


def _run(
    rank: int, world_size: int, data: Path, run_dir: Path, asynchronous: bool, victim: int, at: int, delay: float
) -> tuple[State, int]:
    """Train or go on; the victim is killed at a mark. The state, and how many marks the rank has made."""
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    fuse = _Fuse(at if rank == victim else -1, delay)
    job = build_context(_config(data, asynchronous), replace(ranks_of(rank, world_size), watch=fuse))
    train_steps(job, RunDirectory(run_dir, run_dir), resume=(run_dir / "checkpoints").exists())
    return whole_state(job), fuse.marks


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[State, int]]]:
    """A folder with `data`, and what a run of two ranks that nobody kills comes to."""
    folder = tmp_path_factory.mktemp("kills")
    write_small(folder / "data")
    return folder, on_ranks(_run, 2, folder / "data", folder / "whole", False, -1, 0, 0.0)


def _killed(folder: Path, run_dir: Path, asynchronous: bool, victim: int, at: int, delay: float) -> bool:
    """Whether the kill came before the end of the run, and was all that went wrong."""
    try:
        on_ranks(_run, 2, folder / "data", run_dir, asynchronous, victim, at, delay)
    except RankError as error:
        said = str(error)
    else:
        return False
    assert f"--- rank {victim}: ended without an answer, exit code -9" in said, said
    return True


@pytest.mark.slow
def test_the_same_bits_whenever_a_rank_is_killed(whole: tuple[Path, list[tuple[State, int]]]) -> None:
    moments, seed = 20, 1
    folder, expected = whole
    marks, draw, died = min(count for _, count in expected), random.Random(seed), 0
    for i in range(moments):
        run_dir, victim, asynchronous = folder / f"killed-{seed}-{i}", draw.randrange(2), i % 2 == 1
        first = draw.randint(1, marks), draw.random() * 0.01
        second = draw.randint(1, marks // 4), draw.random() * 0.01
        died += _killed(folder, run_dir, asynchronous, victim, *first)
        died += _killed(folder, run_dir, asynchronous, 1 - victim, *second)  # and again as it goes on
        case = (i, victim, first, second)
        for entry in finished_checkpoints(run_dir / "checkpoints"):
            assert find_damages(entry.path) == [], case
        found = on_ranks(_run, 2, folder / "data", run_dir, asynchronous, -1, 0, 0.0)
        for (state, _), (wanted, _) in zip(found, expected, strict=True):
            assert state.keys() == wanted.keys()
            assert [key for key in state if not state[key].equal(wanted[key])] == [], case
    assert died >= moments  # not all came too late
