"""Attention over histories on 1, 2 and 3 ranks: the same weights, and runs that go on with the same bits."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.loop import train_steps
from tests.histories import write_histories
from tests.training.small import SGD, on_ranks, ranks_of, records, relative, small_config, whole_tables

STEPS = 12
SHARDINGS: dict[str, dict[str, Any]] = {
    "row_wise": {"sharding": "row_wise"},
    "table_wise": {"sharding": "table_wise"},
    "one of each": {"sharding": "row_wise", "tables": {"video": {"sharding": "table_wise"}}},
    "columns": {"sharding": "column_wise"},
    "planner": {},
}
CASES = {1: ("row_wise",), 2: ("one of each", "planner", "columns"), 3: ("row_wise", "table_wise")}
Weights = dict[str, Tensor]


def config_of(data: Path, changes: dict[str, Any] | None = None, *, history: str = "din") -> Any:
    """Two tasks of the dataset of `tests.histories`, 48 samples a step."""
    config = small_config(
        data,
        {
            "tasks": [{"name": "click"}, {"name": "watch"}],
            "embeddings": {"dim": 8},
            "train": {"batch_size": 48, "steps": STEPS, "report_every": 6},
        }
        | (changes or {}),
    )
    return config.model_copy(update={"model": config.model.model_copy(update={"history": history})})


def _trained(rank: int, world_size: int, data: Path, runs: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for sharding in CASES[world_size]:
        embeddings = {"dim": 8, "id_dropout": 0.25, **SHARDINGS[sharding]}
        train = {"batch_size": 48, "steps": STEPS, "report_every": 6, "evaluate_every": STEPS}
        config = config_of(data, SGD | {"embeddings": embeddings, "train": train})
        run_dir = runs / f"{world_size} {sharding}"
        if rank == 0:
            run_dir.mkdir(parents=True)
        job = build_context(config, ranks_of(rank, world_size))
        before, metrics = _weights(job), _metrics(job)
        train_steps(job, RunDirectory(run_dir, run_dir), resume=False)
        results[sharding] = {
            "before": before,
            "weights": _weights(job),
            "metrics": metrics,
            "records": records(run_dir),
            "plan": job.plan.tables,
        }
    return results


def _weights(job: TrainContext) -> Weights:
    tables = ("embeddings", "sequences")
    dense = {k: v.detach().clone() for k, v in job.unwrapped_model.named_parameters() if not k.startswith(tables)}
    return dense | whole_tables(job.model)


def _metrics(job: TrainContext) -> dict[str, Any]:
    with closing(job.evaluation_loader("valid").epoch(0)) as batches:
        return evaluate(
            job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=1000, gate_labels=job.gate_labels
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("histories")
    write_histories(folder / "data")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[int, dict[str, Any]]:
    return {world: on_ranks(_trained, world, folder / "data", folder / "runs")[0] for world in (1, 2, 3)}


def test_all_weights_move(trained: dict[int, dict[str, Any]]) -> None:
    run = trained[1]["row_wise"]
    assert any(name.startswith("attentions.") for name in run["weights"])
    assert {table.table: table.unpooled for table in run["plan"]} == {
        "user": False,
        **dict.fromkeys(("video", "author", "tab", "liked_age"), True),
    }
    moved = {name: relative(run["weights"][name], run["before"][name]) for name in run["weights"]}
    print(moved)
    assert min(moved.values()) > 5e-5, moved


@pytest.mark.parametrize(("world_size", "sharding"), [(w, sharding) for w, case in CASES.items() for sharding in case])
def test_weights_and_records_equal_those_of_one_rank(
    world_size: int, sharding: str, trained: dict[int, dict[str, Any]]
) -> None:
    run, one = trained[world_size][sharding], trained[1]["row_wise"]
    assert run["before"].keys() == one["before"].keys()
    far = {
        name: error for name in one["weights"] if (error := relative(run["weights"][name], one["weights"][name])) > 1e-5
    }
    assert not far
