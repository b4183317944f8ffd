"""Checkpoints that the clock brings: rank 0's decides, all ranks save, and no bit or record of the run differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from torch import Tensor

from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.runs.checkpoints import CheckpointTimer
from ple_rec.training import loop
from ple_rec.training.step import train_step
from tests.training.small import on_ranks, records, small_config, train_small, whole_state, write_small


class _KilledError(Exception):
    pass


def _config(data: Path, **checkpoint: Any) -> RunConfig:
    train = {"batch_size": 24, "steps": 12, "report_every": 5, "evaluate_every": 50}
    return small_config(data, {"train": train, "checkpoint": {"keep": 99} | checkpoint})


def _run(
    rank: int, world_size: int, config: RunConfig, run_dir: Path, resume: bool, kill_at: int | None
) -> dict[str, Tensor]:
    """Train; without a warning the process ends before the step of that number. Return the state at the end."""

    def killed(*args: Any, **kwargs: Any) -> Any:
        if args[3] == kill_at:
            raise _KilledError
        return train_step(*args, **kwargs)

    with mock.patch.object(loop, "train_step", killed):
        try:
            return whole_state(train_small(rank, world_size, config, run_dir, resume=resume))
        except _KilledError:
            return {}


def _steps(run_dir: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (run_dir / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("timed") / "data")


@pytest.mark.parametrize("pipeline", [pytest.param("none", marks=pytest.mark.slow), "sparse_dist"])
def test_a_run_saves_by_the_clock_and_resumes_to_the_same_bits(pipeline: str, data: Path, tmp_path: Path) -> None:
    """With dropout, so that the random state counts, too."""
    whole_dir, run_dir = tmp_path / "whole", tmp_path / "run"
    plain, often = (
        config.model_copy(
            update={
                "model": config.model.model_copy(update={"dropout": 0.2}),
                "train": config.train.model_copy(update={"pipeline": pipeline}),
            }
        )
        for config in (_config(data), _config(data, every_minutes=1e-9))
    )
    whole = on_ranks(_run, 2, plain, whole_dir, False, None)
    on_ranks(_run, 2, often, run_dir, False, 9)
    assert _steps(whole_dir) == [12]
    assert _steps(run_dir) == [2, 4, 6, 8]  # a step to ask, a step to save
    resumed = on_ranks(_run, 2, often, run_dir, True, None)
    assert records(run_dir) == records(whole_dir)
    for state, expected in zip(resumed, whole, strict=True):
        assert [key for key in expected if not state[key].equal(expected[key])] == []


def _run_with_clocks(rank: int, world_size: int, config: RunConfig, run_dir: Path) -> None:
    """The clock of rank 0 is due before its sixth step, that of rank 1 always."""
    due = [rank == 1 or i == 5 for i in range(12)]
    with mock.patch.object(CheckpointTimer, "is_due", side_effect=due):
        train_small(rank, world_size, config, run_dir)


def test_the_clock_of_rank_0_decides(data: Path, tmp_path: Path) -> None:
    on_ranks(_run_with_clocks, 2, _config(data), tmp_path / "run")
    assert _steps(tmp_path / "run") == [7, 12]


def test_the_timer_counts_from_its_last_restart() -> None:
    with mock.patch("time.monotonic", side_effect=[0.0, 899.9, 900.0, 1000.0, 1899.0, 1900.0]):
        timer = CheckpointTimer(15)
        assert [timer.is_due(), timer.is_due()] == [False, True]
        timer.restart()
        assert [timer.is_due(), timer.is_due()] == [False, True]


def _run_with_a_slow_store(rank: int, world_size: int, config: RunConfig, run_dir: Path) -> None:
    """The clock is due at every step; the store still writes in the background until the eighth step begins."""
    writing = iter([True] * 7 + [False] * 5)
    with mock.patch.object(CheckpointStore, "writing", property(lambda store: next(writing) if rank == 0 else False)):
        train_small(rank, world_size, config, run_dir)


def test_the_clock_waits_for_a_save_that_is_still_being_written(data: Path, tmp_path: Path) -> None:
    on_ranks(_run_with_a_slow_store, 2, _config(data, every_minutes=1e-9, asynchronous=True), tmp_path / "run")
    assert _steps(tmp_path / "run") == [9, 11, 12]


def test_a_run_of_one_epoch_at_the_papers_size_saves_by_the_clock() -> None:
    assert load_config(RunConfig, "tencent-ple").checkpoint.every_minutes == 15
