"""A window that collects rows, as on a GPU, reports what one that adds every step reports; also after a restart."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.training import loop, progress
from ple_rec.training.progress import ReportWindow
from ple_rec.training.step import train_step
from tests.training.small import on_ranks, records, small_config, train_small, write_small

B = 24
TASKS = (Task(name="click", kind="binary", label="click"), Task(name="watch", kind="regression", label="watch"))


def _about(value: Any) -> Any:
    """The same structure with numbers and tensors to 12 digits."""
    if isinstance(value, dict):
        return {key: _about(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_about(item) for item in value]
    if isinstance(value, Tensor):
        return pytest.approx(value.numpy(), rel=1e-12, abs=1e-15)
    return pytest.approx(value, rel=1e-12) if isinstance(value, float) else value


def _add_step(window: ReportWindow, seed: int, *, weighted: bool) -> None:
    torch.manual_seed(seed)
    labels_BK, in_space_BK = torch.randint(2, (2, B, 2)).float()
    weight_B = torch.rand(B) if weighted else None
    batch = Batch(None, torch.empty(B, 0), labels_BK, in_space_BK, weight_B, None, B)
    window.update(batch, torch.randn(B, 2, requires_grad=True), torch.rand(2), in_space_BK.sum(0), 0.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_state_covers_collected_steps_and_few_rows_are_collected(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step has 24 rows, so every third one reaches the 60 rows that are computed at once."""
    at_once = ReportWindow(TASKS, torch.device("cpu"))
    for step in range(8):
        _add_step(at_once, step, weighted=weighted)
    monkeypatch.setattr(progress, "rows_at_once", lambda device: 60)
    collecting, steps_collected = ReportWindow(TASKS, torch.device("cpu")), []
    for step in range(8):
        _add_step(collecting, step, weighted=weighted)
        steps_collected.append(len(collecting._pending))
    assert steps_collected == [1, 2, 0, 1, 2, 0, 1, 2]
    state, expected = collecting.state_dict(), at_once.state_dict()
    assert state["steps"] == expected["steps"] == 8
    assert state["sums"].numpy() == _about(expected["sums"])
    assert {key: _plain(value) for key, value in state["metrics"].items()} == _about(expected["metrics"])
    assert _about(collecting.state_dict()["sums"]) == state["sums"].numpy()


def _plain(value: Tensor | int) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


class _KilledError(Exception):
    pass


def _run(
    rank: int, world_size: int, data: Path, run_dir: Path, rows: int, kill_at: int | None = None, resume: bool = False
) -> None:
    """Train 12 steps with reports at 5, 10 and 12, and saves by the clock in between.

    Args:
        rows: Number of rows that a window collects.
        kill_at: Step before which the process ends without a warning.
        resume: True to go on from the newest checkpoint.
    """

    def killed(*args: Any, **kwargs: Any) -> Any:
        if args[3] == kill_at:
            raise _KilledError
        return train_step(*args, **kwargs)

    train = {"batch_size": B, "steps": 12, "report_every": 5, "evaluate_every": 50}
    config = small_config(data, {"train": train, "checkpoint": {"every_minutes": 1e-9}})
    with (
        mock.patch.object(loop, "train_step", killed),
        mock.patch.object(progress, "rows_at_once", return_value=rows),
        suppress(_KilledError),
    ):
        train_small(rank, world_size, config, run_dir, resume=resume)


def test_reports_are_the_same_after_a_restart_within_a_window(tmp_path: Path) -> None:
    write_small(tmp_path / "data")
    on_ranks(_run, 1, tmp_path / "data", tmp_path / "at-once", 1)
    on_ranks(_run, 1, tmp_path / "data", tmp_path / "collecting", 60, 9)
    assert [record["step"] for record in records(tmp_path / "collecting")] == [5]
    on_ranks(_run, 1, tmp_path / "data", tmp_path / "collecting", 60, None, True)
    reports = records(tmp_path / "collecting")
    assert [(record["split"], record.get("steps")) for record in reports[:3]] == [
        ("train", 5),
        ("train", 5),
        ("train", 2),
    ]
    assert reports == _about(records(tmp_path / "at-once"))
