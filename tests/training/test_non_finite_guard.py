"""What is not finite, on whichever rank, stops every rank within a step, and no checkpoint is kept from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.errors import DivergedError
from ple_rec.models import losses as loss_sums
from ple_rec.models.losses import loss_sums_K
from ple_rec.models.objective import objective
from ple_rec.training import step as step_module
from ple_rec.training.context import build_context
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.progress import TrainingProgress
from ple_rec.training.step import train_step
from tests.training.small import on_ranks, ranks_of, small_config, train_small, whole_tables, write_small

ADVICE = (
    "training stops, since this step has already updated the tables. Fix: train again with a smaller learning rate, a "
    "warm-up or dense_optimizer.clip_norm, and look at the inputs"
)
CHANGES: dict[str, Any] = {
    "train": {"batch_size": 24, "steps": 9, "report_every": 100},
    "checkpoint": {"every": 4, "keep": 9},
}


def _guarded(rank: int, world_size: int) -> list[Any]:
    guard = NonFiniteGuard(["click", "watch"], torch.device("cpu"))
    fine, bad = torch.zeros(2), torch.tensor([0.0, float("nan")])
    seen: list[Any] = []
    for step, sums_K, norm in ((1, fine, 1.0), (2, bad if rank == 1 else fine, 1.0), (3, fine, 1.0), (4, fine, 1.0)):
        try:
            guard.start(torch.tensor([1.0 + rank, 0.25 * step]))
        except DivergedError as error:
            return [*seen, f"start of {step}: {error}"]
        seen.append(guard.counts_K().tolist())
        guard.record(step, sums_K, torch.tensor(norm))
    return seen


SETTLED: list[tuple[list[float], float, str]] = [
    ([1.0, 1.0], 1.0, "settled"),
    ([float("inf"), 1.0], 1.0, f"step 7: the loss of task click is not finite; {ADVICE}"),
    ([float("nan")] * 2, float("nan"), f"step 7: the losses of tasks click, watch are not finite; {ADVICE}"),
    ([1.0, 1.0], float("inf"), f"step 7: the dense gradients are not finite; {ADVICE}"),
]


def _settled(rank: int, world_size: int) -> list[str]:
    said = []
    for sums, norm, _ in SETTLED:
        guard = NonFiniteGuard(["click", "watch"], torch.device("cpu"))
        guard.synchronize()
        guard.record(7, torch.tensor(sums) if rank == 0 else torch.zeros(2), torch.tensor(norm))
        try:
            guard.synchronize()
            said.append("settled")
        except DivergedError as error:
            said.append(str(error))
    return said


def test_flags_travel_with_the_counts_of_the_next_step() -> None:
    expected = [
        [3.0, 0.5],
        [3.0, 1.0],
        [3.0, 1.5],
        f"start of 4: step 2: the loss of task watch is not finite; {ADVICE}",
    ]
    assert on_ranks(_guarded, 2) == [expected, expected]


def test_settle_waits_for_the_last_step() -> None:
    assert on_ranks(_settled, 2) == [[said for _, _, said in SETTLED]] * 2


def _diverging(rank: int, world_size: int, data: Path, run_dir: Path, what: str, at: int) -> tuple[str, int, list[int]]:
    """Message, exit code, and the steps that were done."""
    advance = TrainingProgress.advance
    steps: list[int] = []

    def bad_sums_K(*args: Any) -> Tensor:
        sums_K = loss_sums_K(*args)
        poison = what == "loss" and rank == 1 and len(steps) + 1 == at
        return sums_K + torch.tensor([0.0, float("nan")]) if poison else sums_K

    def steep_total(*args: Any) -> Tensor:
        loss = objective(*args)
        return loss * 1e38 * 1e3 if what == "gradient" and len(steps) + 1 == at else loss

    def count(self: TrainingProgress) -> None:
        advance(self)
        steps.append(len(steps) + 1)

    TrainingProgress.advance = count  # type: ignore[method-assign]
    try:
        with (
            mock.patch.object(loss_sums, "loss_sums_K", bad_sums_K),
            mock.patch.object(step_module, "objective", steep_total),
        ):
            train_small(rank, world_size, small_config(data, CHANGES), run_dir)
    except DivergedError as error:
        return str(error), error.exit_code, steps
    return "finished", 0, steps


def _resumed(rank: int, world_size: int, data: Path, run_dir: Path) -> bool:
    job = train_small(rank, world_size, small_config(data, CHANGES), run_dir, resume=True)
    return all(bool(values.isfinite().all()) for values in whole_tables(job.model).values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    write_small(folder / "data")
    return folder


@pytest.mark.parametrize(
    ("what", "at", "done", "said"),
    [
        ("loss", 5, 6, "step 5: the loss of task watch is not finite"),  # seen when step 7 starts
        ("loss", 8, 8, "step 8: the loss of task watch is not finite"),  # before the checkpoint of step 8
        ("loss", 7, 8, "step 7: the loss of task watch is not finite"),  # before the checkpoint of the next step
        ("gradient", 5, 6, "step 5: the dense gradients are not finite"),
    ],
)
def test_every_rank_stops_within_a_step(what: str, at: int, done: int, said: str, folder: Path) -> None:
    run_dir = folder / f"{what}-{at}"
    results = on_ranks(_diverging, 2, folder / "data", run_dir, what, at)
    assert results == [(f"{said}; {ADVICE}", 4, list(range(1, done + 1)))] * 2
    assert sorted(path.name for path in (run_dir / "checkpoints").glob("step-*")) == ["step-4"]
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-4\n"
    if what == "gradient":  # the checkpoint before it is sound
        assert on_ranks(_resumed, 2, folder / "data", run_dir) == [True, True]
        assert (run_dir / "checkpoints" / "latest").read_text() == "step-9\n"


def _without_a_sample(rank: int, world_size: int, data: Path) -> tuple[list[float], float, bool]:
    """A batch in which no rank has a sample of watch: its loss, the largest change of its tower, all finite."""
    sgd = {"kind": "sgd", "learning_rate": 1.0}
    job = build_context(
        small_config(data, {"dense_optimizer": sgd, "table_optimizer": sgd}), ranks_of(rank, world_size)
    )
    guard = NonFiniteGuard([task.name for task in job.tasks], job.ranks.device)
    batch = next(job.loader.epoch(0))
    batch.in_space_BK[:, 1] = 0
    batch.labels_BK[:, 1] = float("nan")
    before = {name: p.detach().clone() for name, p in job.unwrapped_model.towers[1].named_parameters()}
    _, sums_K, counts_K = train_step(job, guard, batch, 0, [1.0, 1.0])
    guard.synchronize()
    change = max(float((p - before[name]).abs().max()) for name, p in job.unwrapped_model.towers[1].named_parameters())
    finite = all(bool(values.isfinite().all()) for values in whole_tables(job.model).values())
    dist.all_reduce(counts_K)
    return [float(sums_K[1]), float(counts_K[1])], change, finite


def test_a_task_without_a_sample_contributes_exactly_nothing(folder: Path) -> None:
    assert on_ranks(_without_a_sample, 2, folder / "data") == [([0.0, 0.0], 0.0, True)] * 2
