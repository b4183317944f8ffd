"""Two epochs of SGD end in the same weights at 1, 2 and 3 ranks, under every sharding, as in plain torch on one device.

SGD without momentum and without dropout but that of ids, fp32, samples from the real loader. A sample weight and spaces
that hold unequal numbers of samples on the ranks are part of it. The evaluation before training gives the same metrics.
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ple_rec.models.embeddings import embedding_collection
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.loop import train_steps
from tests.training.small import SGD, on_ranks, ranks_of, records, relative, small_config, whole_tables, write_small

STEPS = 18
TASKS = [{"name": "click", "weight": 1.0, "decay": 0.99}, {"name": "watch", "weight": 0.25, "decay": 1.01}]
SHARDINGS: dict[str, dict[str, Any]] = {
    "row_wise": {"sharding": "row_wise"},
    "table_wise": {"sharding": "table_wise"},
    "one of each": {"sharding": "row_wise", "tables": {"item": {"sharding": "table_wise"}}},
    "planner": {},
}
CASES = {1: ("row_wise",), 2: ("one of each", "planner"), 3: ("row_wise", "table_wise")}
Weights = dict[str, Tensor]


def _config(data: Path, sharding: str) -> Any:
    return small_config(
        data,
        SGD
        | {
            "tasks": TASKS,
            "train": {"batch_size": 24, "steps": STEPS, "report_every": 9, "evaluate_every": STEPS},
            "schedule": {"warmup_steps": 5, "decay": "cosine"},
            "embeddings": {"dim": 8, "id_dropout": 0.25, **SHARDINGS[sharding]},
        },
    )


def _weights(job: TrainContext) -> Weights:
    dense = {k: v.detach().clone() for k, v in job.unwrapped_model.named_parameters() if not k.startswith("embeddings")}
    return dense | whole_tables(job.model)


def _metrics(job: TrainContext) -> dict[str, Any]:
    with closing(job.evaluation_loader("valid").epoch(0)) as batches:
        return evaluate(
            job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=1000, gate_labels=job.gate_labels
        )


def _trained(rank: int, world_size: int, data: Path, runs: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for sharding in CASES[world_size]:
        run_dir = runs / f"{world_size} {sharding}"
        if rank == 0:
            run_dir.mkdir(parents=True)
        job = build_context(_config(data, sharding), ranks_of(rank, world_size))
        metrics = _metrics(job)
        train_steps(job, RunDirectory(run_dir, run_dir), resume=False)
        results[sharding] = {
            "metrics": metrics,
            "weights": _weights(job),
            "records": records(run_dir),
            "plan": job.plan.tables,
        }
    return results


def _plain(rank: int, world_size: int, data: Path) -> tuple[Weights, Weights]:
    """Before and after: torch's own SGD on tables that are not sharded, and the loss written down once more."""
    config = _config(data, "row_wise")
    job = build_context(config, ranks_of(0, 1))
    before = _weights(job)
    tables = embedding_collection(
        config.embeddings, job.selection.sparse, job.selection.table_rows, torch.device("cpu")
    )
    assert tables is not None
    for name, table in tables.embedding_bags.items():
        table.weight.data.copy_(before[name])
    model = job.unwrapped_model
    model.embeddings = tables
    rates = {False: 0.5, True: 2.0}
    groups = [
        {"params": [p for k, p in model.named_parameters() if k.startswith("embeddings") == sparse], "lr": rate}
        for sparse, rate in rates.items()
    ]
    optimizer = torch.optim.SGD(groups)
    step = 0
    for epoch in range(-(-STEPS // job.loader.steps)):
        for batch in job.loader.epoch(epoch):
            if step == STEPS:
                break
            progress = (step - 5) / (STEPS - 1 - 5)
            factor = (step + 1) / 6 if step < 5 else (1 + math.cos(math.pi * progress)) / 2
            for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
                group["lr"] = rate * factor
            assert batch.weight_B is not None
            logits_BK, _ = model(batch)
            z, y, s_BK = logits_BK, batch.labels_BK, batch.in_space_BK * batch.weight_B[:, None]
            losses = [
                F.binary_cross_entropy_with_logits(z[:, 0], y[:, 0], s_BK[:, 0], reduction="sum"),
                (s_BK[:, 1] * (z[:, 1] - y[:, 1]) ** 2).sum(),
            ]
            w = [1.0 * 0.99**step, 0.25 * 1.01**step]
            loss = sum(w[k] * losses[k] / s_BK[:, k].sum().clamp(min=1e-12) for k in range(2))
            optimizer.zero_grad()
            assert isinstance(loss, Tensor)
            loss.backward()
            optimizer.step()
            step += 1
    after = {k.split(".")[-2] if k.startswith("embeddings") else k: p.detach() for k, p in model.named_parameters()}
    return before, after


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("equivalence")
    write_small(folder / "data")
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[Weights, Weights]:
    return on_ranks(_plain, 1, folder / "data")[0]


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[int, dict[str, Any]]:
    return {world: on_ranks(_trained, world, folder / "data", folder / "runs")[0] for world in (1, 2, 3)}


def test_plain_training_moves_every_weight(plain: tuple[Weights, Weights]) -> None:
    before, after = plain
    moved = {name: relative(after[name], before[name]) for name in before}
    assert min(moved.values()) > 5e-5, moved


@pytest.mark.parametrize(("world_size", "sharding"), [(w, sharding) for w, case in CASES.items() for sharding in case])
def test_weights_equal_those_of_plain_torch(
    world_size: int, sharding: str, trained: dict[int, dict[str, Any]], plain: tuple[Weights, Weights]
) -> None:
    weights = trained[world_size][sharding]["weights"]
    assert weights.keys() == plain[1].keys()
    far = {name: error for name in weights if (error := relative(weights[name], plain[1][name])) > 1e-5}
    assert not far


@pytest.mark.parametrize("world_size", [2, 3])
def test_log_equals_that_of_one_rank(world_size: int, trained: dict[int, dict[str, Any]]) -> None:
    for run in trained[world_size].values():
        _assert_close(run["records"], trained[1]["row_wise"]["records"], 2e-5)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_row_once(world_size: int, trained: dict[int, dict[str, Any]]) -> None:
    for run in trained[world_size].values():
        assert run["metrics"]["tasks"]["click"]["samples"] == 101
        for part in ("tasks", "gates"):
            _assert_close(run["metrics"][part], trained[1]["row_wise"]["metrics"][part], 1e-5)


def test_shardings_are_those_asked_for(trained: dict[int, dict[str, Any]]) -> None:
    expected = {
        "row_wise": ["row_wise", "row_wise", "row_wise"],
        "table_wise": ["table_wise", "table_wise", "table_wise"],
        "one of each": ["table_wise", "row_wise", "row_wise"],
    }
    for runs in trained.values():
        plans = {name: [table.sharding for table in run["plan"]] for name, run in runs.items()}
        assert all(plan == expected[name] for name, plan in plans.items() if name != "planner")
        assert {table.kernel for run in runs.values() for table in run["plan"]} == {"fused"}


def _assert_close(found: Any, expected: Any, tolerance: float) -> None:
    left, right = _flat(found), _flat(expected)
    numbers = {place for place, value in right.items() if isinstance(value, float)}
    assert {k: v for k, v in left.items() if k not in numbers} == {k: v for k, v in right.items() if k not in numbers}
    expected_numbers = {place: right[place] for place in numbers}
    assert {k: left[k] for k in numbers} == pytest.approx(expected_numbers, rel=tolerance, abs=1e-6)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Numbers and words of nested dicts and lists, by place."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {place: value}
    return {k: v for key, inner in items for k, v in _flat(inner, f"{place}.{key}").items()}
