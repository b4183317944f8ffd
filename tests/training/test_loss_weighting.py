"""Learned loss weights and penalties in real runs: the same at 1 and 2 ranks, logged, saved, resumed, evaluated.

The task `watch` has so few samples that some global batches hold none of it, and some hold them on one rank only.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader

from ple_rec.cli import main
from ple_rec.config.base import Split
from ple_rec.config.model import SingleTaskConfig, SluiceConfig, TaskExpertLevelConfig, TowerConfig
from ple_rec.config.run import RunConfig
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.loop import train_steps
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.progress import TrainingProgress
from ple_rec.training.run import train
from ple_rec.training.step import train_step
from tests.datasets import set_column
from tests.training.small import (
    on_ranks,
    ranks_of,
    records,
    relative,
    small_config,
    train_small,
    whole_state,
    whole_tables,
    write_small,
)

pytestmark = pytest.mark.usefixtures("no_charts")

STEPS = 18
TASKS = [
    {"name": "click", "weight": 1.0, "decay": 0.98},
    {"name": "watch", "weight": 0.5, "decay": 1.02, "loss": "huber", "huber_delta": 0.5},
]
FACTORS = {"click": 1.0, "watch": 1.0}  # cross-entropy and huber
TOWER = TowerConfig(hidden=(4,))
LAMBDA = 0.05
Run = dict[str, Any]
Change = dict[str, tuple[Tensor, Tensor]]  # of every dense parameter: before, after


def _rarely_watched(split: Split, table: pa.Table) -> pa.Table:
    if split != "train":
        return table
    return set_column(table, "watched", table["watched"].to_numpy() & (np.arange(table.num_rows) % 7 == 0))


def _config(data: Path, weighting: str, **changes: Any) -> RunConfig:
    sgd = {"kind": "sgd", "learning_rate": 0.2}
    return small_config(
        data,
        {
            "tasks": TASKS,
            "dense_optimizer": sgd,
            "table_optimizer": sgd,
            "train": {"batch_size": 24, "steps": STEPS, "report_every": 1, "loss_weighting": weighting},
            **changes,
        },
    )


def _learned(data: Path) -> RunConfig:
    """Two tasks that share the tables alone, so that what belongs to `watch` can be told."""
    model = SingleTaskConfig(variant="single_task", bottom=(8, 6), tower=TOWER)
    return _config(data, "uncertainty").model_copy(update={"model": model})


def _penalised(data: Path) -> RunConfig:
    levels = (TaskExpertLevelConfig(expert_hidden=(8,)),) * 2
    model = SluiceConfig(variant="sluice", levels=levels, subspaces=2, orthogonality=LAMBDA, tower=TOWER)
    return _config(data, "schedule").model_copy(update={"model": model})


def _own(job: TrainContext, task: int) -> Tensor:
    """Every dense weight that belongs to a task of `_learned`, its log-variance last."""
    experts, tower = job.unwrapped_model.extraction.levels[0].experts, job.unwrapped_model.towers[task]
    parts = [weight.split(8)[task] for weight in (*experts.first_weights, *experts.first_biases)]  # type: ignore[union-attr, misc]
    parts += [weight[task] for weight in (*experts.deep_weights, *experts.deep_biases)]  # type: ignore[union-attr, misc]
    parts += [*tower.parameters(), job.unwrapped_model.weighting.log_variance_K[task]]  # type: ignore[index]
    return torch.cat([part.detach().flatten() for part in parts])


def _penalty(job: TrainContext) -> float:
    """lambda sum over levels, experts and pairs a < b of subspaces of ||W_a^T W_b||_F^2."""
    total = 0.0
    for level in job.unwrapped_model.extraction.levels:
        for weight_HI in level.experts.first_weights:  # type: ignore[union-attr]
            for expert_HI in weight_HI.detach().double().split(8):
                for a, b in itertools.combinations(expert_HI.split(4), 2):
                    total += float((a @ b.T).square().sum())
    return LAMBDA * total


def _train(rank: int, world_size: int, config: RunConfig, run_dir: Path) -> Run:
    """Train, and look at every step."""
    if rank == 0:
        run_dir.mkdir(parents=True)
    dist.barrier()
    job = build_context(config, ranks_of(rank, world_size))
    learned = config.train.loss_weighting == "uncertainty"
    own: list[list[Tensor]] = []
    penalties: list[float] = []

    def look() -> None:
        own.append([_own(job, task) for task in range(2)] if learned else [])
        penalties.append(0.0 if learned else _penalty(job))

    look()
    with mock.patch.object(TrainingProgress, "advance", side_effect=look):
        train_steps(job, RunDirectory(run_dir, run_dir), resume=False)
    dense = {k: v.detach().clone() for k, v in job.unwrapped_model.named_parameters() if "embedding" not in k}
    return {
        "own": own,
        "penalties": penalties,
        "weights": dense | whole_tables(job.model),
        "records": records(run_dir),
    }


def _resumed(rank: int, world_size: int, data: Path, run_dir: Path) -> tuple[list[str], list[str], Tensor]:
    """What differs between a whole run and one from its middle on; the names of all; the log-variances."""
    config = _config(
        data,
        "uncertainty",
        train={"batch_size": 24, "steps": 6, "report_every": 3, "loss_weighting": "uncertainty"},
        checkpoint={"every": 3},
        dense_optimizer={"kind": "adamw", "weight_decay": 0.1, "learning_rate": 0.01, "clip_norm": 0.5},
        table_optimizer={},
    )
    whole = whole_state(train_small(rank, world_size, config, run_dir))
    if rank == 0:
        (run_dir / "checkpoints" / "latest").write_text("step-3")
    dist.barrier()
    again = whole_state(train_small(rank, world_size, config, run_dir, resume=True))
    different = [key for key in whole if not torch.equal(whole[key], again[key])]
    return different, sorted(whole), whole["model.weighting.log_variance_K"]


def _all(rank: int, world_size: int, data: Path, runs: Path) -> Run:
    return {
        "learned": _train(rank, world_size, _learned(data), runs / f"learned-{world_size}"),
        "penalised": _train(rank, world_size, _penalised(data), runs / f"penalised-{world_size}"),
        "resumed": _resumed(rank, world_size, data, runs / f"resumed-{world_size}"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighting")
    write_small(folder / "data", edit=_rarely_watched)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[int, Run]:
    return {world_size: on_ranks(_all, world_size, folder / "data", folder / "runs")[0] for world_size in (1, 2)}


def _steps(run: Run) -> list[dict[str, Any]]:
    return [record for record in run["records"] if record["split"] == "train"]


def _scheduled(task: dict[str, Any], t: int) -> float:
    return float(task["weight"] * task["decay"] ** t)


@pytest.mark.parametrize("world_size", [1, 2])
def test_log_variances_descend_kendalls_gradient_and_the_log_tells(world_size: int, ranks: dict[int, Run]) -> None:
    """s <- s - rate w(t) (1/2 - c exp(-s) L), by the L that the log of the same step has."""
    run = ranks[world_size]["learned"]
    assert len(_steps(run)) == STEPS
    for t, record in enumerate(_steps(run)):
        terms = 0.0
        for k, task in enumerate(TASKS):
            said = record["tasks"][task["name"]]
            before, after = (float(run["own"][t + i][k][-1]) for i in (0, 1))
            w, c = _scheduled(task, t), FACTORS[str(task["name"])]
            if said["loss"]:
                slope = w * (0.5 - c * math.exp(-before) * said["loss"])
                assert after == pytest.approx(before - 0.2 * slope, abs=2e-6)
                terms += w * after / 2
            assert said["weight"] == pytest.approx(w * c * math.exp(-after), rel=1e-6)
            terms += said["weight"] * said["loss"]
        assert record["loss"] == pytest.approx(terms, rel=1e-5)
    s = np.array([[float(task[-1]) for task in own] for own in run["own"]])
    assert (s[0] == 0).all()
    assert (np.abs(s[-1]) > 0.1).all(), s[-1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_without_a_sample_of_a_task_moves_nothing_of_it(world_size: int, ranks: dict[int, Run]) -> None:
    run = ranks[world_size]["learned"]
    absent = [t for t, record in enumerate(_steps(run)) if record["tasks"]["watch"]["loss"] == 0]
    assert 2 < len(absent) < STEPS - 2
    for t in range(STEPS):
        moved = [not torch.equal(a, b) for a, b in zip(run["own"][t], run["own"][t + 1], strict=True)]
        assert moved == [True, t not in absent]


@pytest.mark.parametrize("name", ["learned", "penalised"])
def test_two_ranks_train_as_one(name: str, ranks: dict[int, Run]) -> None:
    one, two = (ranks[world_size][name] for world_size in (1, 2))
    for a, b in zip(one["own"], two["own"], strict=True):
        assert all(relative(y, x) < 1e-5 for x, y in zip(a, b, strict=True))
    assert {k: error for k in one["weights"] if (error := relative(two["weights"][k], one["weights"][k])) > 1e-5} == {}
    assert two["penalties"] == pytest.approx(one["penalties"], rel=1e-5)
    for a, b in zip(_steps(one), _steps(two), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-5)
        for task in ("click", "watch"):
            for key in ("loss", "weight"):
                assert b["tasks"][task][key] == pytest.approx(a["tasks"][task][key], rel=2e-5)


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_logged_loss_holds_the_penalty(world_size: int, ranks: dict[int, Run]) -> None:
    run = ranks[world_size]["penalised"]
    for record, penalty in zip(_steps(run), run["penalties"][1:], strict=True):
        losses = sum(task["weight"] * task["loss"] for task in record["tasks"].values())
        assert record["loss"] == pytest.approx(losses + penalty, rel=1e-5)
        assert penalty > 0.01 * losses
    assert run["penalties"][-1] < 0.9 * run["penalties"][0]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_goes_on_with_its_log_variances_bit_for_bit(world_size: int, ranks: dict[int, Run]) -> None:
    different, names, s_K = ranks[world_size]["resumed"]
    assert different == []
    assert "optimizer.weighting.log_variance_K.exp_avg_sq" in names
    assert s_K.count_nonzero() == 2


# Where the losses drive s away from 0 and so great a decay would drive it back: the first step of Adam and Adagrad
# shows the sign of a gradient alone.
NEAR_ZERO = (0.1, -0.1)


def _one_step(rank: int, world_size: int, data: Path) -> dict[str, dict[str, Change]]:
    """By optimizer, then by setting: every dense parameter before and after a first step."""
    settings: dict[str, dict[str, Any]] = {"plain": {}, "decay": {"weight_decay": 100.0}}
    results: dict[str, dict[str, Change]] = {}
    for kind in ("sgd", "adagrad", "adam", "adamw"):
        results[kind] = {}
        for name, setting in (settings | ({"clip": {"clip_norm": 0.01}} if kind == "sgd" else {})).items():
            optimizer = {"kind": kind, "learning_rate": 0.1, **setting}
            job = build_context(_config(data, "uncertainty", dense_optimizer=optimizer), ranks_of(rank, world_size))
            s_K = job.unwrapped_model.weighting.log_variance_K
            s_K.data.copy_(torch.tensor(NEAR_ZERO))  # type: ignore[operator]
            dense = {k: v for k, v in job.unwrapped_model.named_parameters() if "embedding" not in k}
            before = {k: v.detach().clone() for k, v in dense.items()}
            guard = NonFiniteGuard(["click", "watch"], job.ranks.device)
            train_step(job, guard, next(iter(job.loader.epoch(0))), 0, [1.0, 0.5])
            guard.synchronize()
            results[kind][name] = {k: (before[k], v.detach()) for k, v in dense.items()}
    return results


def test_log_variances_are_clipped_but_not_decayed(folder: Path) -> None:
    results = on_ranks(_one_step, 1, folder / "data")[0]
    s = "weighting.log_variance_K"
    for kind, settings in results.items():
        (before_K, after_K), (_, decayed_K) = settings["plain"][s], settings["decay"][s]
        assert before_K.tolist() == pytest.approx(NEAR_ZERO)
        assert after_K[0] > before_K[0]
        assert after_K[1] < before_K[1]
        assert torch.equal(decayed_K, after_K), kind
        same = [k for k, (_, after) in settings["plain"].items() if torch.equal(after, settings["decay"][k][1])]
        assert [k for k in same if settings["plain"][k][0].numel() > 1] == [s], kind

    change = {k: after - before for k, (before, after) in results["sgd"]["plain"].items()}
    clipped = {k: after - before for k, (before, after) in results["sgd"]["clip"].items()}
    norm = torch.cat([c.flatten() for c in change.values()]).norm() / 0.1
    assert norm > 0.1
    torch.testing.assert_close(clipped[s], change[s] * 0.01 / norm, rtol=1e-3, atol=0)


def _keys(checkpoint: Path) -> set[str]:
    keys = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {key for key in keys if not key.startswith("position")}


def test_only_what_is_learned_is_saved_and_either_run_is_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {}
    for weighting in ("schedule", "uncertainty"):
        run_dir = tmp_path / weighting
        short = {"batch_size": 24, "steps": 2, "loss_weighting": weighting}
        metrics = train(_config(folder / "data", weighting, train=short, dense_optimizer={"kind": "adam"}), run_dir)
        keys[weighting] = _keys(run_dir / "checkpoints" / "step-2")
        capsys.readouterr()
        assert main(["evaluate", str(run_dir), "--split", "test", "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["test"]["tasks"] == metrics["test"]["tasks"]
    s = "weighting.log_variance_K"
    assert {key for key in keys["schedule"] if "weighting" in key} == set()
    added = {f"model.{s}", *(f"optimizer.state.{s}.{name}" for name in ("step", "exp_avg", "exp_avg_sq"))}
    assert keys["uncertainty"] - keys["schedule"] == added
    assert keys["schedule"] <= keys["uncertainty"]
