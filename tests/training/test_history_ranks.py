"""Attention over histories on 1, 2 and 3 ranks: the same weights, and runs that go on with the same bits."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from ple_rec.runs.directory import RunDirectory
from ple_rec.training import loop
from ple_rec.training.batch_feeder import PipelinedFeeder
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.evaluate import evaluate
from ple_rec.training.loop import train_steps
from ple_rec.training.progress import ReportWindow, TrainingProgress
from ple_rec.training.restore import restore
from tests.histories import write_histories
from tests.rank_processes import RankError
from tests.training.small import (
    SGD,
    on_ranks,
    ranks_of,
    records,
    relative,
    small_config,
    train_small,
    whole_state,
    whole_tables,
)

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
    # The slope of PReLU is one number for all hidden values of the attention, and moves least, by 2e-5.
    assert min(moved.values()) > 1e-6, moved


@pytest.mark.parametrize(("world_size", "sharding"), [(w, sharding) for w, case in CASES.items() for sharding in case])
def test_weights_and_losses_equal_those_of_one_rank(
    world_size: int, sharding: str, trained: dict[int, dict[str, Any]]
) -> None:
    run, one = trained[world_size][sharding], trained[1]["row_wise"]
    for weights, expected in ((run[part], one[part]) for part in ("before", "weights")):
        assert weights.keys() == expected.keys()
        assert {name: error for name in expected if (error := relative(weights[name], expected[name])) > 1e-5} == {}
    for found, expected in ((run["metrics"], one["metrics"]), (run["records"], one["records"])):
        left, right = flat(found), flat(expected)
        assert left.keys() == right.keys()
        assert left == pytest.approx(right, rel=2e-5, abs=1e-6)
    (video,) = (table.sharding for table in run["plan"] if table.table == "video")
    expected_kinds = {"one of each": "table_wise", "columns": "column_wise", "planner": video}
    assert video == expected_kinds.get(sharding, sharding)


ROUNDED: dict[str, dict[str, Any]] = {
    "fp16 rows": {"dtype": "fp16"},
    "fp16 and bf16 exchanges": {"qcomms": {"forward_precision": "fp16", "backward_precision": "bf16"}},
    "int8 exchanges": {"qcomms": {"forward_precision": "int8", "backward_precision": "int8"}},
}


def _rounded(rank: int, world_size: int, data: Path, runs: Path) -> dict[str, list[float]]:
    """The losses of runs that store or exchange rows in fewer bits, and of one that does not."""
    losses = {}
    embeddings: dict[str, dict[str, Any]] = {"fp32": {}} | ROUNDED
    for name, changes in embeddings.items():
        config = config_of(data, SGD | {"embeddings": {"dim": 8, **changes}})
        train_small(rank, world_size, config, runs / name)
        losses[name] = [line["loss"] for line in records(runs / name) if line["split"] == "train"]
    return losses


def test_rows_in_fewer_bits_train_nearly_the_same(folder: Path, tmp_path: Path) -> None:
    losses = on_ranks(_rounded, 2, folder / "data", tmp_path)[0]
    exact = losses.pop("fp32")
    assert len(exact) == 2
    for name, found in losses.items():
        assert found != exact, name
        assert found == pytest.approx(exact, rel=0.02), name


def flat(value: Any, place: str = "") -> dict[str, float]:
    """The numbers of nested dicts and lists, by place."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {place: value} if isinstance(value, int | float) else {}
    return {k: v for key, inner in items for k, v in flat(inner, f"{place}.{key}").items()}


SAVED = {"train": {"batch_size": 48, "steps": 8, "report_every": 4, "evaluate_every": 4}, "checkpoint": {"every": 3}}
SHARDED_1, SHARDED_2 = ({"embeddings": {"dim": 8, **SHARDINGS[name]}} for name in ("row_wise", "one of each"))


def _run(
    rank: int,
    world_size: int,
    data: Path,
    run_dir: Path,
    changes: dict[str, Any],
    resume: bool = False,
    killed_at: int | None = None,
) -> dict[str, Tensor]:
    """Train or go on, and return the whole state; the last rank is killed after a step."""
    advance, count = TrainingProgress.advance, [0]

    def advance_or_die(self: TrainingProgress) -> None:
        advance(self)
        count[0] += 1
        if count[0] == killed_at and rank == world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(TrainingProgress, "advance", advance_or_die):
        config = config_of(data, SAVED | changes)
        config = config.model_copy(update={"model": config.model.model_copy(update={"dropout": 0.1})})
        return whole_state(train_small(rank, world_size, config, run_dir, resume=resume))


def _pipelines(rank: int, world_size: int, data: Path, runs: Path) -> dict[str, tuple[dict[str, Tensor], Any]]:
    """State and records of a run without a pipeline, and of those that prepare batches ahead, as far as a CPU can."""
    results = {}
    for kind in ("none", "sparse_dist", "prefetch"):
        with pytest.MonkeyPatch.context() as patch:
            if kind == "prefetch":
                patch.setattr(
                    loop,
                    "make_feeder",
                    lambda _, model, ranks, regions: PipelinedFeeder(model, ranks, regions, prefetch=True),
                )
            pipeline = {"pipeline": "none" if kind == "prefetch" else kind}
            changes = {"train": SAVED["train"] | pipeline} | SHARDED_2
            results[kind] = _run(rank, world_size, data, runs / kind, changes), records(runs / kind)
    return results


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_a_pipelined_run_has_the_same_bits(folder: Path, tmp_path: Path) -> None:
    results = on_ranks(_pipelines, 2, folder / "data", tmp_path)[0]
    state, lines = results["none"]
    assert any(key.startswith("optimizer.sequences.embeddings.video.weight") for key in state)
    for found, found_lines in results.values():
        assert_equal(found, state)
        assert found_lines == lines


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_a_run_that_is_killed_goes_on_with_the_same_bits(optimizer: str, folder: Path, tmp_path: Path) -> None:
    changes = SHARDED_2 | {"table_optimizer": {"kind": optimizer}}
    whole = on_ranks(_run, 2, folder / "data", tmp_path / "whole", changes)[0]
    with pytest.raises(RankError, match="exit code -9"):
        on_ranks(_run, 2, folder / "data", tmp_path / "killed", changes, False, 5)
    assert (tmp_path / "killed" / "checkpoints" / "latest").read_text() == "step-4\n"
    assert_equal(on_ranks(_run, 2, folder / "data", tmp_path / "killed", changes, True)[0], whole)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


def _loaded(rank: int, world_size: int, data: Path, run_dir: Path, changes: dict[str, Any]) -> dict[str, Tensor]:
    """The state that a run restores from its newest checkpoint."""
    job = build_context(config_of(data, SAVED | changes), ranks_of(rank, world_size))
    restore(job, run_dir / "checkpoints" / "step-8", ReportWindow(job.selection.tasks, job.ranks.device))
    return whole_state(job)


def test_a_checkpoint_is_loaded_on_any_number_of_ranks_and_sharding(folder: Path, tmp_path: Path) -> None:
    """On 2 ranks, then on 1, which trains on, then on 3."""
    data, run_dir = folder / "data", tmp_path / "run"
    two = on_ranks(_run, 2, data, run_dir, SHARDED_2)[0]
    for world_size, sharding in ((1, SHARDED_1), (3, SHARDED_2), (3, SHARDED_1)):
        assert_equal(on_ranks(_loaded, world_size, data, run_dir, sharding)[0], two)
    longer = {"train": SAVED["train"] | {"steps": 12}} | SHARDED_1
    runs = {ranks: shutil.copytree(run_dir, tmp_path / f"on-{ranks}") for ranks in (1, 2, 3)}
    states = {ranks: on_ranks(_goes_on, ranks, data, run, longer)[0] for ranks, run in runs.items()}
    for ranks in (1, 3):
        assert states[ranks].keys() == states[2].keys()
        assert max(relative(states[ranks][key], states[2][key]) for key in states[2] if states[2][key].numel()) < 1e-4


def _goes_on(rank: int, world_size: int, data: Path, run_dir: Path, changes: dict[str, Any]) -> dict[str, Tensor]:
    return whole_state(train_small(rank, world_size, config_of(data, SAVED | changes), run_dir, resume=True))
