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
from ple_rec.distributed.sparse_prefetch import sharded_collections, unlock_caches
from ple_rec.errors import PreemptedError, UserError
from ple_rec.models.losses import StepLoss
from ple_rec.training import batch_feeder as pipeline_module
from ple_rec.training import loop
from ple_rec.training.batch_feeder import PipelinedFeeder, choose_pipeline, make_feeder
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.step import train_step
from tests.training.small import on_ranks, ranks_of, records, small_config, train_small, whole_state, write_small

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
    for kind in ("none", "sparse_dist", "prefetch") if world_size == 1 else ("none",):
        run_dir = runs / kind
        with pytest.MonkeyPatch.context() as patch:
            if kind == "prefetch":  # on a CPU, where its kernels have nothing to do: all but them
                patch.setattr(
                    loop,
                    "make_feeder",
                    lambda _, model, ranks, regions: PipelinedFeeder(model, ranks, regions, prefetch=True),
                )
            config = _config(data, "none" if kind == "prefetch" else kind)
            found[kind] = (whole_state(train_small(rank, world_size, config, run_dir)), records(run_dir))
    if world_size == 1:
        return found
    run_dir, step = runs / "stopped", train_step

    def with_signal(*args: Any, **kwargs: Any) -> Any:
        if args[3] == 6 and rank == world_size - 1:  # with two batches on their way, which must not count
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", with_signal)
        with pytest.raises(PreemptedError, match="asked to stop at step 8 of 13; step-8 is saved"):
            train_small(rank, world_size, _config(data, "sparse_dist"), run_dir)
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


def _loss_of(job: TrainContext, batch: Batch) -> StepLoss:
    return StepLoss(job.losses, batch.labels_BK, batch.in_space_BK, lambda: torch.ones(len(job.losses)))


def _order(rank: int, world_size: int, data: Path) -> dict[str, list[str]]:
    """What each pipeline does, in its order, over three batches; an evaluation follows the first."""
    job = build_context(_config(data, "sparse_dist"), ranks_of(rank, world_size))
    (collection,) = sharded_collections(job.model)
    plain, done = type(collection).forward, list[str]()

    def noted(name: str, call: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return call(*args, **kwargs)

        return wrapper

    def read(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            done.append("read")
            yield batch

    collection.input_dist = noted("exchange", collection.input_dist)
    collection.compute_and_output_dist = noted("look up", collection.compute_and_output_dist)
    collection.prefetch = noted("prefetch", collection.prefetch)
    patch = pytest.MonkeyPatch()  # of a process that ends with this function
    patch.setattr(pipeline_module, "unlock_caches", noted("unlock", unlock_caches))
    found = {}
    for kind in ("none", "sparse_dist", "prefetch"):
        prefetch = PipelinedFeeder(job.model, job.ranks, prefetch=True)
        pipeline = prefetch if kind == "prefetch" else make_feeder(kind, job.model, job.ranks)
        done.clear()
        with closing(job.loader.epoch(0)) as batches:
            pipeline.begin(read(batches), 3)  # of nine
            for step in (1, 2, 3):
                batch, waited = pipeline.next(step, pause=step == 1)
                assert waited >= 0
                done.append(f"step {step}")
                pipeline.forward(batch, _loss_of(job, batch))
                assert collection.forward.__func__ is plain  # an evaluation may come now
        found[kind] = done.copy()
    return found


def test_each_batch_is_read_exchanged_and_prefetched_ahead_of_its_step(tmp_path: Path) -> None:
    found = on_ranks(_order, 1, write_small(tmp_path / "data"))[0]
    plain = [["read", f"step {step}", "exchange", "look up"] for step in (1, 2, 3)]
    assert found["none"] == [*plain[0], *plain[1], *plain[2]]
    assert found["sparse_dist"] == [
        *("read", "exchange", "read"),
        *("step 1", "exchange", "look up", "read"),
        *("step 2", "exchange", "look up"),
        *("step 3", "look up"),
    ]
    assert found["prefetch"] == [
        *("read", "exchange", "read", "unlock", "prefetch"),
        *("step 1", "exchange", "look up", "read"),  # nothing is prefetched over the evaluation that follows
        *("unlock", "prefetch"),
        *("step 2", "exchange", "look up", "prefetch"),
        *("step 3", "look up"),
    ]


def test_auto_overlaps_steps_on_gpus_alone() -> None:
    assert choose_pipeline("auto", CPU) == "none"
    assert choose_pipeline("auto", torch.device("cuda", 1)) == "sparse_dist"
    assert choose_pipeline("none", torch.device("cuda")) == "none"
    assert choose_pipeline("prefetch", torch.device("cuda")) == "prefetch"


def test_rows_are_prefetched_on_gpus_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        choose_pipeline("prefetch", CPU)
    assert str(caught.value) == (
        'train.pipeline: got "prefetch" on a CPU; this pipeline fetches rows of fused_uvm_caching tables into the '
        'memory of a GPU. Fix: set train.pipeline = "sparse_dist" or "none"'
    )
