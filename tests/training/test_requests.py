"""Training and evaluation that look a request's features up once end where those do that look up every sample's."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.modules import grouped
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.loop import train_steps
from ple_rec.training.progress import TrainingProgress
from tests.training.requests import SHARED, write_requests
from tests.training.small import (
    SGD,
    on_ranks,
    ranks_of,
    relative,
    small_config,
    train_small,
    whole_state,
    whole_tables,
    write_small,
)

STEPS = 6


def _config(data: Path, pipeline: str = "none", **of_data: Any) -> Any:
    changes = SGD | {
        "data": of_data,
        "table_optimizer": {"kind": "rowwise_adagrad"},
        "embeddings": {"dim": 4, "pooling": "mean", "tables": {"item": {"sharding": "row_wise"}}},
        "train": {"batch_size": 24, "steps": STEPS, "evaluate_every": STEPS, "pipeline": pipeline},
    }
    return small_config(data, changes)


def _trained(rank: int, world_size: int, configs: list[Any], folder: Path) -> list[dict[str, Any]]:
    found = []
    for i, config in enumerate(configs):
        run_dir = folder / f"{world_size}-{i}"
        if rank == 0:
            run_dir.mkdir(parents=True)
        job = build_context(config, ranks_of(rank, world_size))
        ids = [batch.sparse.values().numel() for batch in job.loader.epoch(0) if batch.sparse is not None]
        with closing(job.evaluation_loader("valid").epoch(0)) as batches:
            metrics = evaluate(job.model, batches, job.selection.tasks, job.ranks.device, exact_limit=1000)
        train_steps(job, RunDirectory(run_dir, run_dir), resume=False)
        dense = {k: v.detach() for k, v in job.unwrapped_model.named_parameters() if not k.startswith("embeddings")}
        found.append({"metrics": metrics, "weights": dense | whole_tables(job.model), "ids": sum(ids)})
    return found


def _of_runs(rank: int, world_size: int, data: Path, folder: Path, few: int) -> dict[str, Any]:
    """Of a run that shuffles requests; `few` as of `ple_rec.modules.grouped`."""
    grouped._MIN_SAMPLES_PER_REQUEST = few
    return _trained(rank, world_size, [_config(data, request_features=SHARED, shuffle="requests")], folder)[0]


def _stopped_and_resumed(rank: int, world_size: int, data: Path, folder: Path) -> list[dict[str, Tensor]]:
    """Of a run that is stopped after five steps and goes on, and of one that is not."""
    config = _config(data, request_features=SHARED, shuffle="requests")
    config = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every": 3})})
    whole = whole_state(train_small(rank, world_size, config, folder / "whole"))
    advance, count = TrainingProgress.advance, [0]

    def stop(self: TrainingProgress) -> None:
        advance(self)
        count[0] += 1
        if count[0] == 5:
            raise KeyError("stopped")

    TrainingProgress.advance = stop  # type: ignore[method-assign]
    with pytest.raises(KeyError, match="stopped"):
        train_small(rank, world_size, config, folder / "stopped")
    return [whole, whole_state(train_small(rank, world_size, config, folder / "stopped", resume=True))]


def _alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        assert relative(found["weights"][name], value) < 2e-5, name
    for task, metrics in expected["metrics"]["tasks"].items():
        for name in ("auc", "logloss", "gauc") if task == "click" else ("mse",):
            value = metrics[name]
            assert found["metrics"]["tasks"][task][name] == pytest.approx(value, rel=1e-5), (task, name)


def test_weights_and_metrics_are_those_without_requests(tmp_path: Path) -> None:
    data = write_requests(tmp_path / "data")
    configs = [_config(data), _config(data, "sparse_dist", request_features=SHARED)]
    expected, found = on_ranks(_trained, 2, configs, tmp_path)[0]
    _alike(found, expected)
    assert found["ids"] < expected["ids"]


def test_requests_that_are_shuffled_whole(tmp_path: Path) -> None:
    data = write_requests(tmp_path / "data")
    expected = on_ranks(_of_runs, 1, data, tmp_path / "put together", 1000)[0]
    _alike(on_ranks(_of_runs, 1, data, tmp_path / "grouped", 1)[0], expected)
    _alike(on_ranks(_of_runs, 2, data, tmp_path / "ranks", 1)[0], expected)


def test_a_run_that_shuffles_requests_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, resumed = on_ranks(_stopped_and_resumed, 1, write_requests(tmp_path / "data"), tmp_path)[0]
    assert whole.keys() == resumed.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


def test_of_rows_in_no_order_every_one_is_a_request(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    configs = [_config(data), _config(data, request_features=("user", "item", "age"))]
    expected, found = on_ranks(_trained, 1, configs, tmp_path)[0]
    _alike(found, expected)
    assert found["ids"] == expected["ids"]
