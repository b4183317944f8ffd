"""A run that goes on with other ranks: the same weights and optimizer state to the bit, then the same samples."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import CHECKPOINTS
from ple_rec.training.context import build_context
from ple_rec.training.loop import train_steps
from ple_rec.training.progress import ReportWindow
from ple_rec.training.restore import restore
from tests.training.small import on_ranks, ranks_of, relative, small_config, train_small, whole_state, write_small

State = dict[str, Tensor]
SHARDINGS = ("row_wise", "table_wise")


def _config(data: Path, sharding: str = "row_wise", steps: int = 4, **changes: Any) -> Any:
    train = {"batch_size": 24, "steps": steps, "report_every": 2, "evaluate_every": 50}
    return small_config(data, {"embeddings": {"dim": 8, "sharding": sharding}, "train": train} | changes)


def _saved(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, State]:
    """By sharding: a run of four steps, whose weights no other has, and its state."""
    return {
        sharding: whole_state(
            train_small(
                rank, world_size, _config(data, sharding, seed=10 * world_size + i), folder / f"{sharding}-{world_size}"
            )
        )
        for i, sharding in enumerate(SHARDINGS)
    }


def _loaded(rank: int, world_size: int, data: Path, folder: Path, writers: tuple[int, ...]) -> dict[str, State]:
    """The state after `restore` of each of these runs, by `sharding-ranks to sharding`."""
    found = {}
    for now in SHARDINGS:
        job = build_context(_config(data, now), ranks_of(rank, world_size))
        for writer, before in itertools.product(writers, SHARDINGS):
            path = CheckpointStore(folder / f"{before}-{writer}" / CHECKPOINTS).require("latest")
            position = restore(job, path, ReportWindow(job.selection.tasks, job.ranks.device))
            assert position.step == 4
            found[f"{before}-{writer} to {now}"] = whole_state(job)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    write_small(folder / "data")
    return folder


@pytest.fixture(scope="module")
def saved(folder: Path) -> dict[int, dict[str, State]]:
    return {ranks: on_ranks(_saved, ranks, folder / "data", folder)[0] for ranks in (1, 2, 4)}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_ranks_and_sharding_load_the_same_bits(
    world_size: int, folder: Path, saved: dict[int, dict[str, State]]
) -> None:
    for found in on_ranks(_loaded, world_size, folder / "data", folder, (1, 2, 4)):
        assert len(found) == 3 * 2 * 2
        for case, state in found.items():
            before, _, writer = case.split(" to ")[0].partition("-")
            expected = saved[int(writer)][before]
            assert state.keys() == expected.keys(), case
            assert [key for key in state if not state[key].equal(expected[key])] == [], case


def _goes_on(rank: int, world_size: int, data: Path, run_dir: Path) -> State:
    job = build_context(_config(data, steps=9), ranks_of(rank, world_size))
    train_steps(job, RunDirectory(run_dir, run_dir), resume=True)
    return {key: value for key, value in whole_state(job).items() if value.is_floating_point()}


def test_it_goes_on_as_if_the_ranks_had_never_changed(folder: Path, saved: dict[int, dict[str, State]]) -> None:
    runs = {ranks: shutil.copytree(folder / "row_wise-2", folder / f"on-{ranks}") for ranks in (1, 2, 3)}
    states = {ranks: on_ranks(_goes_on, ranks, folder / "data", run_dir)[0] for ranks, run_dir in runs.items()}
    for ranks in (1, 3):
        assert states[ranks].keys() == states[2].keys()
        assert max(relative(states[ranks][key], states[2][key]) for key in states[2]) < 1e-4


def _refusals(rank: int, world_size: int, data: Path, folder: Path) -> list[str]:
    said = []
    train = {"batch_size": 48, "steps": 4}
    for config, path in (
        (_config(data, train=train), folder / "row_wise-2"),
        (_config(data, "column_wise"), folder / "row_wise-2"),
    ):
        job = build_context(config, ranks_of(rank, world_size))
        with pytest.raises(UserError) as caught:
            restore(
                job,
                CheckpointStore(path / CHECKPOINTS).require("latest"),
                ReportWindow(job.selection.tasks, job.ranks.device),
            )
        said.append(str(caught.value).replace(str(path / CHECKPOINTS), ""))
    return said


def test_other_steps_and_cuts_are_refused(folder: Path, saved: dict[int, dict[str, State]]) -> None:
    assert on_ranks(_refusals, 1, folder / "data", folder) == [
        [
            "/step-4: was written by a run of 24 samples a step on 2 rank(s); this one has 48 on 1; a run goes on with "
            "the same steps, on any number of ranks. Fix: resume with --set train.batch_size=24 --set "
            "train.batch_size_per_rank=",
            "/step-4: its column_wise shards are none, this run's are {'item': [8], 'tag': [8], 'user': [8]}; "
            "row-wise Adagrad keeps one state for each shard of a row, so shards of other widths need another state. "
            "Fix: resume with the same embeddings.sharding and number of ranks",
        ]
    ]
