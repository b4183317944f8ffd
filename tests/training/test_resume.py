"""A run is a function of its seed, bit for bit; one that was killed and goes on ends as if it had never stopped."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.checkpoint.files import _ChecksumStream
from ple_rec.errors import UserError
from ple_rec.training.progress import TrainingProgress
from tests.rank_processes import RankError
from tests.training.small import on_ranks, records, small_config, train_small, whole_state, write_small

# Epochs have 9 steps: 10 is in the middle of the second one.
CHANGES: dict[str, Any] = {
    "train": {"batch_size": 24, "steps": 14, "report_every": 4},
    "checkpoint": {"every": 5},
    "schedule": {"warmup_steps": 3, "decay": "linear"},
    "dense_optimizer": {"clip_norm": 0.5},
    "embeddings": {"dim": 4, "id_dropout": 0.3},
}
Ends = tuple[dict[str, Tensor], Tensor, dict[str, Any]]


def _config(path: Path, **changes: Any) -> Any:
    config = small_config(path, CHANGES | changes)
    dropout = {"dropout": 0.2, "input_dropout": 0.1}
    return config.model_copy(update={"model": config.model.model_copy(update=dropout)})


def _run(rank: int, world_size: int, data: Path, run_dir: Path, resume: bool, killed_in: str | None) -> Ends:
    """Train; the last rank is killed after step 4 or 13, or while it writes the checkpoint of step 10."""
    advance, write, count = TrainingProgress.advance, _ChecksumStream.write, [0]

    def advance_or_die(self: TrainingProgress) -> None:
        advance(self)
        count[0] += 1
        if killed_in == f"step {count[0]}" and rank == world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_or_die(self: _ChecksumStream, block: Any) -> int:
        if killed_in == "a save" and count[0] == 10 and rank == world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, block)

    with (
        mock.patch.object(TrainingProgress, "advance", advance_or_die),
        mock.patch.object(_ChecksumStream, "write", write_or_die),
    ):
        job = train_small(rank, world_size, _config(data), run_dir, resume=resume)
    return whole_state(job), torch.get_rng_state(), {"learning_rate": job.optimizers.learning_rate}


def _assert_same(found: Ends, expected: Ends) -> None:
    assert found[0].keys() == expected[0].keys()
    assert [name for name in found[0] if not torch.equal(found[0][name], expected[0][name])] == []
    assert torch.equal(found[1], expected[1])
    assert found[2] == expected[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_small(folder / "data")
    return folder


@pytest.mark.parametrize(("world_size", "killed_in", "saved", "logged"), [(1, "step 13", 10, 12), (2, "a save", 9, 10)])
def test_a_run_repeats_and_goes_on_bit_for_bit(
    world_size: int, killed_in: str, saved: int, logged: int, folder: Path
) -> None:
    dirs = {name: folder / f"{name}-{world_size}" for name in ("whole", "again", "killed")}
    whole = on_ranks(_run, world_size, folder / "data", dirs["whole"], False, None)
    again = on_ranks(_run, world_size, folder / "data", dirs["again"], False, None)
    for found, expected in zip(again, whole, strict=True):
        _assert_same(found, expected)
    assert records(dirs["again"]) == records(dirs["whole"])
    assert {record["step"] for record in records(dirs["whole"])} == {4, 5, 8, 9, 10, 12, 14}

    with pytest.raises(RankError, match="exit code -9"):
        on_ranks(_run, world_size, folder / "data", dirs["killed"], False, killed_in)
    assert (dirs["killed"] / "checkpoints" / "latest").read_text() == f"step-{saved}\n"
    assert records(dirs["killed"])[-1]["step"] == logged
    with (dirs["killed"] / "train.jsonl").open("a") as log:
        log.write('{"split": "train", "st')  # killed while it wrote
    resumed = on_ranks(_run, world_size, folder / "data", dirs["killed"], True, None)
    for found, expected in zip(resumed, whole, strict=True):
        _assert_same(found, expected)
    assert records(dirs["killed"]) == records(dirs["whole"])
    seconds = [record["seconds"] for record in records(dirs["killed"], times=True)]
    assert seconds == sorted(seconds)
    if world_size == 2:  # else every rank would have drawn the same dropout masks
        assert not torch.equal(whole[0][1], whole[1][1])


def test_a_run_killed_before_its_first_checkpoint_starts_again(folder: Path) -> None:
    run_dir, whole_dir = folder / "early", folder / "whole-1"
    with pytest.raises(RankError):
        on_ranks(_run, 1, folder / "data", run_dir, False, "step 4")
    assert (run_dir / "train.jsonl").exists()
    assert not (run_dir / "checkpoints").exists()
    state = on_ranks(_run, 1, folder / "data", run_dir, True, None)[0]
    assert records(run_dir) == records(whole_dir)
    finished = on_ranks(_run, 1, folder / "data", run_dir, True, None)[0]  # nothing is left to do
    assert [name for name in state[0] if not torch.equal(finished[0][name], state[0][name])] == []
    assert records(run_dir) == records(whole_dir)


def _refused(rank: int, world_size: int, data: Path, run_dir: Path) -> str:
    with pytest.raises(UserError) as caught:
        train_small(rank, world_size, _config(data), run_dir, resume=True)
    return str(caught.value)


def test_another_dataset_is_refused(folder: Path) -> None:
    other = write_small(folder / "other", seed=1)
    (message,) = set(on_ranks(_refused, 2, other, folder / "whole-2"))
    assert re.search(
        rf"was trained on dataset \w{{64}}, {other} is \w{{64}}: tasks, features and tables are alike, rows and "
        "vocabularies are not; a run goes on with the same dataset, since ids of another dataset mean something else. ",
        message,
    )


KINDS: dict[str, dict[str, Any]] = {
    "adamw, adagrad, weighted mean": {
        "dense_optimizer": {"kind": "adamw", "weight_decay": 0.1},
        "table_optimizer": {"kind": "adagrad"},
        "embeddings": {"dim": 4, "pooling": "mean", "sharding": "table_wise"},
    },
    "sgd, sgd": {"dense_optimizer": {"kind": "sgd"}, "table_optimizer": {"kind": "sgd"}},
    "adagrad, fp16 tables": {"dense_optimizer": {"kind": "adagrad"}, "embeddings": {"dim": 8, "dtype": "fp16"}},
    "adam with decay, bf16": {
        "dense_optimizer": {"kind": "adam", "weight_decay": 0.01},
        "train": {"batch_size": 24, "steps": 4, "report_every": 2, "precision": "bf16"},
    },
    "no sparse feature": {"data": {"drop": ["user", "history", "item", "tags", "last_item"]}},
    "no dense feature, table-wise": {
        "data": {"drop": ["age", "price", "score", "bias"]},
        "embeddings": {"dim": 4, "sharding": "table_wise"},
    },
}


def _every_kind(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, tuple[list[str], bool]]:
    """By kind: what differs between a whole run and one from its middle on, and whether all is finite."""
    short = {"train": {"batch_size": 24, "steps": 4, "report_every": 2}, "checkpoint": {"every": 2}}
    results = {}
    for name, kind in KINDS.items():
        config = _config(data, **(short | kind))
        job = train_small(rank, world_size, config, folder / name)
        whole = whole_state(job)
        if rank == 0:
            (folder / name / "checkpoints" / "latest").write_text("step-2")
        dist.barrier()
        resumed = whole_state(train_small(rank, world_size, config, folder / name, resume=True))
        different = [key for key in whole if not torch.equal(whole[key], resumed[key])]
        results[name] = different, all(bool(value.isfinite().all()) for value in whole.values())
    return results


def test_every_optimizer_precision_and_kind_of_input_goes_on(folder: Path) -> None:
    runs = folder / "kinds"
    results = on_ranks(_every_kind, 2, folder / "data", runs)
    assert results == [dict.fromkeys(KINDS, ([], True))] * 2
    for name in KINDS:
        train = [record["loss"] for record in records(runs / name) if record["split"] == "train"]
        assert len(train) == 2, name
