"""Weights and optimizer state that overflow, on whichever rank, stop every rank before they are evaluated or saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from ple_rec.distributed.sharding import local_shards
from ple_rec.errors import DivergedError
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.finite import check_finite
from ple_rec.training.loop import train_steps
from tests.training.small import on_ranks, ranks_of, small_config, write_small

RULE = (
    "no checkpoint of this step is written. Fix: train again with a smaller learning rate or a warm-up, and look at "
    "the inputs"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("finite") / "data")


def _states(job: TrainContext, name: str) -> list[Tensor]:
    """The state of a table that this rank holds."""
    state = job.optimizers.combined.state_dict()["state"][f"embeddings.embedding_bags.{name}.weight"]
    return [piece.tensor for value in state.values() for piece in value.local_shards()]


def _read(rank: int, world_size: int, data: Path, embeddings: dict[str, Any]) -> tuple[int, int]:
    """Values that `check_finite` reads, and values that the rank has."""
    job = build_context(small_config(data, {"embeddings": embeddings}), ranks_of(rank, world_size))
    own = sum(values.numel() for _, values, *_ in local_shards(job.model)) + job.unwrapped_model.dense_parameters()
    own += sum(values.numel() for table in job.plan.tables for values in _states(job, table.table))
    with mock.patch.object(torch, "aminmax", side_effect=torch.aminmax) as read:
        check_finite(job, 4)
    return sum(call.args[0].numel() for call in read.call_args_list), own


@pytest.mark.parametrize("sharding", ["row_wise", "column_wise"])
def test_every_value_is_read_once(sharding: str, data: Path) -> None:
    embeddings = {"sharding": sharding, "dim": 256 if sharding == "column_wise" else 4}
    for read, own in on_ranks(_read, 2, data, embeddings):
        assert read == own


def _poisoned(rank: int, world_size: int, data: Path) -> list[str]:
    """What is said of values of rank 1 that are not finite, one after another, then of all together."""
    job = build_context(small_config(data, {"embeddings": {"sharding": "row_wise"}}), ranks_of(rank, world_size))
    job.optimizers.init_state()
    check_finite(job, 4)
    weights = {table: values for table, values, *_ in local_shards(job.model)}
    dense = job.optimizers.dense_parameters[0]
    adam = job.optimizers.combined.state_dict()["state"]["towers.0.layers.0.bias"]["exp_avg_sq"]
    places = [weights["item"], *_states(job, "user"), dense.detach(), adam]
    said = []
    for chosen in ([place] for place in places), [places]:
        for together in chosen:
            before = [place.flatten()[0].item() for place in together]
            for place in together if rank == 1 else ():
                place.flatten()[0] = float("inf") if len(together) > 1 else float("nan")
            try:
                check_finite(job, 4)
            except DivergedError as error:
                said.append(str(error))
            for place, value in zip(together, before, strict=True):
                place.flatten()[0] = value
    return said


def test_what_overflows_on_one_rank_stops_all_and_is_named(data: Path) -> None:
    names = ["table item", "the optimizer state of table user", "the dense layers"]
    names.append("the optimizer state of the dense layers")
    all_of_them = f"{names[0]}, {names[2]}, {names[1]}, {names[3]}"
    expected = [f"step 4: values of {name} are not finite after its update; {RULE}" for name in (*names, all_of_them)]
    assert on_ranks(_poisoned, 2, data) == [expected, expected]


def _overflowing(rank: int, world_size: int, data: Path, run_dir: Path) -> tuple[str, int]:
    """A run whose fp16 rows overflow in the update of its last step, which no loss shows any more."""
    run_dir.mkdir(exist_ok=True)
    changes = {
        "embeddings": {"dim": 4, "dtype": "fp16"},
        "table_optimizer": {"learning_rate": 1e6},
        "train": {"batch_size": 24, "steps": 1},
    }
    try:
        train_steps(
            build_context(small_config(data, changes), ranks_of(rank, world_size)),
            RunDirectory(run_dir, run_dir),
            resume=False,
        )
    except DivergedError as error:
        return str(error), error.exit_code
    return "trained", 0


def test_rows_that_overflow_in_the_last_step_are_no_checkpoint(data: Path, tmp_path: Path) -> None:
    tables = "table item, table tag, table user"
    expected = f"step 1: values of {tables} are not finite after its update; {RULE}"
    assert on_ranks(_overflowing, 2, data, tmp_path / "run") == [(expected, 4)] * 2
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))
