"""A run ends where its evaluations no longer improve; one that goes on decides as if it had never stopped."""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.config.run import RunConfig
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.training import validation
from ple_rec.training.checks import select_run_columns
from ple_rec.training.context import build_context
from ple_rec.training.early_stopping import EarlyStopping, describe_stop, stopping_metric
from ple_rec.training.loop import train_steps
from ple_rec.training.progress import TrainingProgress
from ple_rec.training.run import _introduction, train
from tests.training.small import on_ranks, ranks_of, records, small_config, whole_state, write_small

pytestmark = pytest.mark.usefixtures("no_charts")

# The first evaluation is the best, since none can improve on it by so much: with a patience of 2 a run ends at step 6.
NEVER = {"patience": 2, "min_delta": 100.0}
TRAIN = {"batch_size": 24, "steps": 14, "report_every": 4, "evaluate_every": 2}
SAID = "stops early at step 6: loss has not improved by more than 100.0 for 2 evaluations; best {best:.4f} at step 2"


STEPS = {"whole": 6, "killed": 0, "resumed": 6, "at once": 6, "longer": 10, "unbounded": 14}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("early") / "data")


def test_an_improvement_is_greater_than_min_delta() -> None:
    stopping = EarlyStopping()
    counts = []
    for step, score in enumerate((0.5, 0.75, 1.0, 1.25, 1.5, 0.0), start=1):
        stopping.update(score, step, 0.25)
        counts.append((stopping.score, stopping.step, stopping.stale))
    assert counts == [(0.5, 1, 0), (0.5, 1, 1), (1.0, 3, 0), (1.0, 3, 1), (1.5, 5, 0), (1.5, 5, 1)]
    stopping = EarlyStopping()
    for step in (1, 2, 3):
        stopping.update(-0.5, step, 0.0)
    assert (stopping.score, stopping.step, stopping.stale) == (-0.5, 1, 2)


def test_it_says_why() -> None:
    config = small_config(Path("x"), {"early_stopping": {"metric": "income.auc", "patience": 3}})
    assert describe_stop(config, EarlyStopping(0.95121, 400, 3), 700) == (
        "stops early at step 700: income.auc has not improved by more than 0.0 for 3 evaluations; best 0.9512 at step "
        "400"
    )
    assert describe_stop(config, EarlyStopping(-0.25, 400, 1), 700).endswith(
        "for 1 evaluation; best 0.2500 at step 400"
    )


def test_the_metric_is_that_of_the_best_checkpoint_unless_said() -> None:
    train = {"batch_size": 24, "steps": 4, "best_metric": "click.auc"}
    assert stopping_metric(small_config(Path("x"), {"train": train})) is None
    changes: dict[str, Any] = {"train": train, "early_stopping": {"patience": 1}}
    assert stopping_metric(small_config(Path("x"), changes)) == "click.auc"
    changes["early_stopping"]["metric"] = "loss"
    assert stopping_metric(small_config(Path("x"), changes)) == "loss"


def test_a_metric_that_no_task_has_is_refused(data: Path) -> None:
    config = small_config(data, {"early_stopping": {"metric": "watch.auc", "patience": 1}})
    with pytest.raises(UserError) as caught:
        select_run_columns(config, DatasetDirectory(config.data.path))
    assert str(caught.value).startswith("early_stopping.metric: got 'watch.auc'; it is one of loss, click.auc, ")


class _Killed(Exception):
    pass


Ends = tuple[int, dict[str, Tensor], list[str]]
ADVANCE = TrainingProgress.advance


def _run(
    rank: int, world_size: int, data: Path, run_dir: Path, *, early: dict[str, Any] | None = NEVER, dies: int = 0
) -> Ends:
    """Start or go on, and die in step `dies`: steps done, the whole state, the lines that were printed."""
    sys.stdout = printed = io.StringIO()
    count = [0]

    def advance_or_die(self: TrainingProgress) -> None:
        ADVANCE(self)
        count[0] += 1
        if count[0] == dies:
            raise _Killed

    TrainingProgress.advance = advance_or_die  # type: ignore[method-assign]
    resume = (run_dir / "checkpoints").exists()
    dist.barrier()
    run_dir.mkdir(parents=True, exist_ok=True)
    changes = {"train": TRAIN, "checkpoint": {"every": 5}, "early_stopping": early}
    job = build_context(small_config(data, changes), ranks_of(rank, world_size))
    step = 0
    with suppress(_Killed):
        step = train_steps(job, RunDirectory(run_dir, run_dir), resume=resume).step
    return step, whole_state(job), printed.getvalue().splitlines()


def _runs(rank: int, world_size: int, data: Path, folder: Path) -> dict[str, Ends]:
    run, killed = partial(_run, rank, world_size, data), folder / "killed"
    ends = {"whole": run(folder / "whole")}
    # After the checkpoint of step 5, which is between two evaluations: one of the two stale ones lies before it.
    ends["killed"] = run(killed, dies=6)
    ends["resumed"] = run(killed)
    if rank == 0:
        shutil.copytree(killed, folder / "resumed", ignore=shutil.ignore_patterns("checkpoints"))
    dist.barrier()
    ends["at once"] = run(killed)
    ends["longer"] = run(killed, early=NEVER | {"patience": 4})
    ends["unbounded"] = run(killed, early=None)
    return ends


def _differ(found: Ends, expected: Ends) -> list[str]:
    assert found[0] == expected[0]
    return [name for name in expected[1] if not torch.equal(found[1][name], expected[1][name])]


def test_a_run_ends_early_and_a_resumed_one_at_the_same_step(data: Path, tmp_path: Path) -> None:
    first, other = on_ranks(_runs, 2, data, tmp_path)
    valid = [record for record in records(tmp_path / "whole") if record["split"] == "valid"]
    assert [record["step"] for record in valid] == [2, 4, 6]
    line = SAID.format(best=valid[0]["loss"])
    assert first["whole"][2][-1] == line
    assert (tmp_path / "whole" / "checkpoints" / "latest").read_text() == "step-6\n"
    assert first["killed"][0] == 0
    assert records(tmp_path / "resumed") == records(tmp_path / "whole")
    assert first["at once"][2][1:] == [line]
    for ends in (first, other):
        assert {name: step for name, (step, *_) in ends.items()} == STEPS
        assert _differ(ends["resumed"], ends["whole"]) == []
        assert _differ(ends["at once"], ends["whole"]) == []
    assert [printed for *_, printed in other.values() if printed] == []


def _uncounted(rank: int, world_size: int, data: Path, run_dir: Path) -> list[Ends]:
    run = partial(_run, rank, world_size, data, run_dir)
    return [run(early=None, dies=5), run(), run(early=NEVER | {"metric": "click.auc"})]


def test_a_checkpoint_without_its_count_starts_one(data: Path, tmp_path: Path) -> None:
    (ends,) = on_ranks(_uncounted, 1, data, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    said = "early stopping counts from here on: {} has no count of {}"
    assert ends[1][0] == 10  # its checkpoint is of step 4, so that 6 is the first to be judged
    assert said.format(checkpoints / "step-4", "loss") in ends[1][2]
    assert ends[2][0] == 14  # by another metric, 12 is the first
    assert said.format(checkpoints / "step-10", "click.auc") in ends[2][2]
    manifest = json.loads((checkpoints / "step-14" / "manifest.json").read_text())
    assert manifest["written_by"]["early_stopping"] == "click.auc"


def test_the_results_say_so(data: Path, tmp_path: Path) -> None:
    metrics = train(small_config(data, {"train": TRAIN, "early_stopping": NEVER}), tmp_path / "run")
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["stopped_early"]) == (6, True)
    assert metrics["test"]["tasks"]["click"]["auc"] > 0


def _ranks_that_differ(rank: int, world_size: int, data: Path, run_dir: Path) -> int:
    """The step at which this rank ends, where only rank 0's scores stop improving."""
    scores = count()

    def differing(metric: str, tasks: Any, loss: float) -> float:
        return float(rank * next(scores)) if metric == "click.auc" else -loss

    config = small_config(data, {"train": TRAIN, "early_stopping": {"metric": "click.auc", "patience": 1}})
    with mock.patch.object(validation, "checkpoint_score", differing):
        job = build_context(config, ranks_of(rank, world_size))
        return train_steps(job, RunDirectory(run_dir, run_dir), resume=False).step


def test_ranks_whose_scores_differ_decide_as_rank_0_does(data: Path, tmp_path: Path) -> None:
    assert on_ranks(_ranks_that_differ, 2, data, tmp_path) == [4, 4]


def test_a_metric_alone_is_enough() -> None:
    early = small_config(Path("x"), {"early_stopping": {"metric": "click.auc"}}).early_stopping
    assert early is not None
    assert (early.metric, early.patience) == ("click.auc", 3)


def test_a_patience_that_no_run_reaches_is_said(data: Path, tmp_path: Path) -> None:
    train = {"batch_size": 24, "steps": 2, "report_every": 2}
    config = small_config(data, {"train": train, "early_stopping": {"patience": 1}})
    said = on_ranks(_introduced, 1, config, tmp_path / "run")[0]
    assert said.endswith(
        "\nearly_stopping.patience = 1 is never reached: the run has 1 evaluation(s); lower it, or evaluate more often "
        "(train.evaluate_every)"
    )


def _introduced(rank: int, world_size: int, config: RunConfig, run_dir: Path) -> str:
    return _introduction(build_context(config, ranks_of(rank, world_size)), run_dir)
