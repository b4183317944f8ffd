"""A training step with attention over a history: two graphs, no read by the host, and a ceiling of operators.

On several ranks, the two collections of tables exchange their ids and rows separately. Nothing else waits.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.operators import StepCounts, count_steps
from ple_rec.config.run import RunConfig
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.training import context as context_module
from ple_rec.training.context import build_context
from tests.gpu_proofs.device_path import device_path
from tests.gpu_proofs.test_transfers import _counted_step
from tests.gpu_proofs.transfers import Transfers
from tests.histories import write_histories
from tests.training.small import on_ranks, ranks_of, records, small_config, train_small, whole_state

REPORT_EVERY = 5
# Operators of a step between two reports with two tasks in fp32, by region; `test_launches` has those of other models.
CEILINGS = {
    "input distribution": 2,
    "lookup": 16,
    "output distribution": 1,
    "dense forward": 69,
    "dense backward": 88,
    # The gradients of the rows of items and events come after those of the first table in the backward pass.
    "gradient exchange": 4,
    "table update": 2,
    "optimizers": 5,
    "metrics": 0,
    "other": 15,
}
# Values that FBGEMM reads from its counters, which are in the host's memory on a GPU, too.
HOST_READS = {"lookup": 4}


def _config(data: Path, history: str = "din", sharding: str = "table_wise", **train: Any) -> RunConfig:
    sections: dict[str, Any] = {
        "tasks": [{"name": "click"}, {"name": "again"}],
        "train": {"batch_size": 48} | train,
        "embeddings": {"sharding": sharding},
    }
    config = small_config(data, sections)
    return config.model_copy(update={"model": config.model.model_copy(update={"history": history})})


def _train(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, Any]:
    """Final state of an eager run, and that of a compiled one with its number of compilations."""
    config = _config(data, steps=24, report_every=3, evaluate_every=10)
    backend, compile_training = CompileCounterWithBackend("aot_eager"), MultiTaskModel.compile_training
    with device_path():
        eager = whole_state(train_small(rank, world_size, config, folder / "eager"))
        with (
            mock.patch.object(context_module, "eager_reason", return_value=None),
            mock.patch.object(MultiTaskModel, "compile_training", lambda model: compile_training(model, backend)),
        ):
            compiled = whole_state(train_small(rank, world_size, config, folder / "compiled"))
    return {"eager": eager, "compiled": compiled, "compilations": backend.frame_count}


def _count(rank: int, world_size: int, data: Path, folder: Path) -> StepCounts:
    context = build_context(
        _config(data, steps=100, report_every=REPORT_EVERY, evaluate_every=100), ranks_of(rank, world_size)
    )
    folder.mkdir()
    with device_path():
        return count_steps(context, folder, counted=REPORT_EVERY)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("histories") / "data"
    write_histories(folder)
    return folder


def test_attention_is_one_graph_for_batches_with_any_number_of_events(data: Path, tmp_path: Path) -> None:
    """Besides it, the layers after it are one; evaluations and the last batch of an epoch do not compile again."""
    (result,) = on_ranks(_train, 1, data, tmp_path)
    assert result["compilations"] == 2
    assert [name for name in result["eager"] if "attentions.0.layers.0.weight" in name]
    assert result["eager"].keys() == result["compiled"].keys()
    assert all(torch.equal(value, result["compiled"][name]) for name, value in result["eager"].items())
    assert records(tmp_path / "eager") == records(tmp_path / "compiled")


def test_operators_and_host_reads_of_a_step(data: Path, tmp_path: Path) -> None:
    (counted,) = on_ranks(_count, 1, data, tmp_path / "run")
    for step in range(1, REPORT_EVERY):
        above = {
            region: [f"{count} operators", *_names(counted, step, region)]
            for region, count in counted.by_region(step).items()
            if count > CEILINGS.get(region, 0) and region != "logging"
        }
        assert above == {}
        assert counted.host_reads[step] == HOST_READS


def _names(counted: StepCounts, step: int, region: str) -> list[str]:
    """Return the names and counts of the operators of one region, for the message of a failure."""
    return [f"{name}: {count}" for (place, name), count in sorted(counted.operators[step].items()) if place == region]


def _transfers(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, Transfers]:
    transfers = {}
    for history in ("mean", "din"):
        config = _config(data, history, "row_wise", steps=8, report_every=100, pipeline="sparse_dist")
        with _counted_step() as counts:
            train_small(rank, world_size, config, folder / history)
        (transfers[history],) = counts
    return transfers


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_collection_has_an_exchange_and_attention_waits_for_nothing(
    world_size: int, data: Path, tmp_path: Path
) -> None:
    for results in on_ranks(_transfers, world_size, data, tmp_path):
        mean, din = results["mean"], results["din"]
        assert mean.copies
        assert din.reads == mean.reads + mean.reads
        assert din.copies == mean.copies + mean.copies
        assert din.pinned_copies == mean.pinned_copies
        assert din.streams == {"exchange": din.reads.total() + din.copies.total()}
        # The rows of events and their gradients go from rank to rank; pooled rows are added on their way.
        rows = Counter({"alltoall_base": mean.collectives["alltoall_base"] + 2 * (world_size > 1)})
        assert din.collectives == mean.collectives + rows
