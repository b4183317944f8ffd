"""Batches that run ahead of their step: the same bits, in the same order, as one after the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.errors import PreemptedError, UserError
from ple_rec.parallel.ahead import cached_kernels, sharded_collection
from ple_rec.train import loop
from ple_rec.train.job import assemble
from ple_rec.train.pipeline import Ahead, check_pipeline, make_pipeline
from tests.train.small import on_ranks, ranks_of, records, small_config, train_small, whole_state, write_small

STEPS = 13  # an epoch has 9
CPU = torch.device("cpu")
# Evaluations and checkpoints in the middle of an epoch, a table of each sharding, dropout that draws at every step.
CHANGES: dict[str, Any] = {
    "model": {"dropout": 0.1},
    "embeddings": {"sharding": "row_wise", "tables": {"item": {"sharding": "table_wise"}}},
    "checkpoint": {"every": 6},
}


def _config(data: Path, pipeline: str, steps: int = STEPS) -> RunConfig:
    train = {"batch_size": 24, "steps": steps, "report_every": 2, "evaluate_every": 5, "pipeline": pipeline}
    return small_config(data, CHANGES | {"train": train})


def _runs(rank: int, world_size: int, data: Path, runs: Path) -> dict[str, Any]:
    """State and records of a plain run, and of a pipelined one, which on several ranks is stopped between two steps."""
    found: dict[str, Any] = {}
    for kind in ("none", "sparse_dist") if world_size == 1 else ("none",):
        run_dir = runs / kind
        found[kind] = (whole_state(train_small(rank, world_size, _config(data, kind), run_dir)), records(run_dir))
    if world_size == 1:
        return found
    run_dir = runs / "stopped"
    original = loop.train_step

    def stopped(*args: Any, **kwargs: Any) -> Any:
        if args[3] == 6 and rank == world_size - 1:  # with two batches on their way, which must not count
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(*args, **kwargs)

    loop.train_step = stopped
    with pytest.raises(PreemptedError, match="asked to stop at step 8 of 13; step-8 is saved"):
        train_small(rank, world_size, _config(data, "sparse_dist"), run_dir)
    loop.train_step = original
    job = train_small(rank, world_size, _config(data, "sparse_dist"), run_dir, resume=True)
    found["stopped"] = (whole_state(job), records(run_dir))
    return found


def _assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(found[name], value)]


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_pipelined_run_has_the_same_bits(tmp_path: Path, world_size: int) -> None:
    data = write_small(tmp_path / "data")
    found = on_ranks(_runs, world_size, data, tmp_path / "runs")[0]
    state, lines = found["none"]
    assert [line["step"] for line in lines if line["split"] == "valid"] == [5, 10, 13]
    for run_state, run_lines in found.values():
        _assert_equal(run_state, state)
        assert run_lines == lines


def _order(rank: int, world_size: int, data: Path) -> dict[str, list[str]]:
    """What a pipeline does, in its order, over three batches."""
    config = _config(data, "sparse_dist")
    job = assemble(config, ranks_of(rank, world_size))
    done: list[str] = []
    pipeline = make_pipeline("sparse_dist", job.model, job.ranks)
    assert isinstance(pipeline, Ahead)
    collection = sharded_collection(job.model)
    assert collection is not None
    plain, exchange, lookup = type(collection).forward, collection.input_dist, collection.compute_and_output_dist

    def noted(name: str, call: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return call(*args, **kwargs)

        return wrapper

    collection.input_dist = noted("exchange", exchange)
    collection.compute_and_output_dist = noted("look up", lookup)

    def read(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            done.append("read")
            yield batch

    with closing(job.loader.epoch(0)) as batches:
        pipeline.begin(read(batches), 3)  # of nine
        for step in (1, 2, 3):
            batch, waited = pipeline.next(step)
            assert waited >= 0
            done.append("step")
            pipeline.forward(batch)
            assert collection.forward.__func__ is plain  # an evaluation may come now
    return {"order": done, "kernels": [type(kernel).__name__ for kernel in cached_kernels(collection)]}


def test_each_batch_is_read_and_exchanged_ahead_of_its_step(tmp_path: Path) -> None:
    found = on_ranks(_order, 1, write_small(tmp_path / "data"))[0]
    first = ["read", "exchange", "read", "step", "exchange", "look up", "read"]
    assert found["order"] == [*first, "step", "exchange", "look up", "step", "look up"]
    assert found["kernels"] == []


def test_rows_are_prefetched_on_gpus_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        check_pipeline("prefetch", CPU)
    assert str(caught.value) == (
        'train.pipeline: got "prefetch" on a CPU; it fetches rows of fused_uvm_caching tables into the memory of a '
        'GPU. Fix: set train.pipeline = "sparse_dist" or "none"'
    )
