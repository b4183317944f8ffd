"""The loop: what is refused before the first step, what ends it, when it evaluates, which checkpoint is the best."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ple_rec.config.base import Split
from ple_rec.data.order import row_group_order
from ple_rec.distributed.process_group import is_lost_peer, process_group
from ple_rec.errors import DataError, UserError
from ple_rec.training.early_stopping import EarlyStopping
from ple_rec.training.run import train
from ple_rec.training.state import TrainState
from ple_rec.training.validation import checkpoint_score, record_evaluation, validation_loss
from tests.datasets import set_column, write_dataset
from tests.training.small import (
    ROW_GROUPS,
    on_ranks,
    ranks_of,
    records,
    small_config,
    train_small,
    whole_tables,
    write_small,
)

pytestmark = pytest.mark.usefixtures("no_charts")

EVALUATED: dict[str, Any] = {
    "click": {"auc": 0.75, "ne": 0.9, "logloss": 0.5, "gauc": 0.6},
    "buy": {"auc": 0.65, "ne": None, "logloss": 0.25},
    "watch": {"mse": 2.0, "rmse": 1.5},
}


def test_validation_loss_weighs_the_tasks() -> None:
    assert validation_loss(EVALUATED, [1.0, 2.0, 0.5]) == 1.0 * 0.5 + 2.0 * 0.25 + 0.5 * 2.0
    empty: dict[str, dict[str, float | None]] = {"click": {"logloss": None}, "watch": {"mse": 2.0}}
    assert validation_loss(empty, [1.0, 0.5]) == 1.0


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("loss", -3.0),
        ("click.auc", 0.75),
        ("mean.auc", 0.7),
        ("watch.rmse", -1.5),
        ("mean.logloss", -0.375),
        ("click.gauc", 0.6),
    ],
)
def test_more_is_better(metric: str, score: float) -> None:
    assert checkpoint_score(metric, EVALUATED, 3.0) == pytest.approx(score)


@pytest.mark.parametrize("metric", ["mean.ne", "buy.ne"])
def test_an_undefined_metric_gives_no_score(metric: str) -> None:
    assert checkpoint_score(metric, EVALUATED, 3.0) is None


def _counted(rank: int, world_size: int, early_stopping: dict[str, Any]) -> tuple[list[int], list[str], int | None]:
    """Steps of the best checkpoint, notes, and evaluations without an improvement, over AUCs that come and go."""
    changes = {"train": {"batch_size": 24, "steps": 9, "best_metric": "click.auc"}, "early_stopping": early_stopping}
    job: Any = SimpleNamespace(config=small_config(Path("x"), changes), ranks=ranks_of(rank, world_size))
    position, best_steps, notes = TrainState(stopping=EarlyStopping()), [], []
    for step, auc in enumerate((None, None, 0.6, None, 0.5, 0.7), 1):
        position.step = step
        tasks = {"click": {"auc": auc and auc + rank}, "buy": {"auc": None if step == 5 else 0.5}}
        notes.append(record_evaluation(job, position, {"loss": 1.0, "tasks": tasks})[1])
        best_steps.append(position.best_step)
    assert position.stopping is not None
    return best_steps, notes, position.stopping.stale


def test_the_newest_is_the_best_until_the_metric_is_defined() -> None:
    """On both ranks, whose scores differ, as rank 0 has it."""
    (best_steps, notes, stale), other = on_ranks(_counted, 2, {"metric": "buy.auc", "patience": 9})
    assert (best_steps, notes, stale) == other
    assert best_steps == [1, 2, 3, 3, 3, 6]
    assert stale == 4  # of five evaluations in which buy.auc is defined
    assert notes[4].endswith(
        "buy.auc is undefined on the validation split (one class?); early stopping does not count this evaluation"
    )
    undefined = "warning: click.auc is undefined on the validation split (one class?); "
    assert notes[1:4] == [
        undefined + "the newest checkpoint counts as the best",
        "best click.auc 0.6000",
        undefined + "the best checkpoint stays",
    ]


def _one_class(split: Split, table: pa.Table) -> pa.Table:
    return set_column(table, "click", np.zeros(table.num_rows, np.float32)) if split == "valid" else table


def _trained_by_an_undefined_metric(rank: int, world_size: int, data: Path, run_dir: Path) -> str:
    train = {"batch_size": 24, "steps": 9, "evaluate_every": 3, "best_metric": "click.auc"}
    changes = {"train": train, "early_stopping": {"patience": 1}}
    with redirect_stdout(StringIO()) as output:
        train_small(rank, world_size, small_config(data, changes), run_dir)
    return output.getvalue()


def test_a_metric_that_becomes_undefined_ends_no_run(tmp_path: Path) -> None:
    data, run_dir = write_small(tmp_path / "data", edit=_one_class), tmp_path / "run"
    output, _ = on_ranks(_trained_by_an_undefined_metric, 2, data, run_dir)
    assert output.count("warning: click.auc is undefined on the validation split") == 3
    assert (run_dir / "checkpoints" / "best").read_text() == "step-9\n"


def test_tasks_that_a_constant_predicts_better_are_told_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"train": {"batch_size": 24, "steps": 6, "evaluate_every": 2}, "table_optimizer": {"learning_rate": 1e9}}
    metrics = train(small_config(write_small(tmp_path / "data"), changes), tmp_path / "run")
    assert metrics["test"]["tasks"]["click"]["ne"] > 1e3
    training, results = capsys.readouterr().out.split("test split")
    assert "always predicting" not in training
    told = re.findall(r"^warning: (\w+): (.+) \d.* on test is above .* of always predicting its (\w+)", results, re.M)
    assert told == [("click", "log loss", "rate"), ("watch", "MSE", "mean")]


def _refused(rank: int, world_size: int, data: Path, run_dir: Path, changes: dict[str, Any]) -> str:
    try:
        train_small(rank, world_size, small_config(data, changes), run_dir)
    except UserError as error:
        return str(error)
    return "trained"


def test_more_ranks_than_row_groups_are_refused_before_the_run(tmp_path: Path) -> None:
    data, run_dir = tmp_path / "data", tmp_path / "run"
    write_dataset(data, rows=128, row_group_rows=64)  # of valid and test one row group each
    said = on_ranks(_refused, 2, data, run_dir, {})
    assert (
        said
        == [
            f"{data}/valid: 1 row group(s) for 2 ranks; each rank must read at least one row group. Fix: use fewer "
            "ranks, or prepare the dataset with smaller row groups"
        ]
        * 2
    )
    assert list(run_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("metric", "fix"),
    [
        ("clack.auc", 'did you mean "click.auc"?'),
        ("watch.auc", "use one of these"),
        ("click.calibration", "use one of these"),
        ("auc", "use one of these"),
        ("mean.xyz", "use one of these"),
    ],
)
def test_a_score_that_no_task_has_is_refused_before_the_run(metric: str, fix: str, tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    train = {"batch_size": 24, "steps": 4, "best_metric": metric}
    assert on_ranks(_refused, 1, data, tmp_path / "run", {"train": train}) == [
        f"train.best_metric: got {metric!r}; it is one of loss, click.auc, click.gauc, click.ne, click.logloss, "
        "watch.mse, watch.rmse, watch.mae, mean.auc, mean.gauc, mean.ne, mean.logloss, mean.mse, mean.rmse, mean.mae. "
        f"Fix: {fix}"
    ]


def _one_bad_label(split: Split, table: pa.Table) -> pa.Table:
    """In the row group that comes last in the first epoch: the first rank of two does not read it."""
    if split != "train":
        return table
    last = int(row_group_order(len(ROW_GROUPS), 3, 0, shuffle=True)[-1])
    row = sum(ROW_GROUPS[:last])
    return set_column(table, "click", np.where(np.arange(table.num_rows) == row, 2.0, table["click"].to_numpy()))


def _bad_data(rank: int, world_size: int, data: Path, run_dir: Path) -> tuple[str, float, int]:
    config = small_config(data, {"train": {"batch_size": 24, "steps": 9, "report_every": 100}})
    begun = time.monotonic()
    said = "trained"
    try:
        with process_group(config.runtime) as ranks:
            train_small(ranks.rank, ranks.world_size, config, run_dir)
    except DataError as error:
        said = f"DataError: {error.value}"
    except RuntimeError as error:
        said = f"lost peer: {is_lost_peer(error)}"
    readers = [thread for thread in threading.enumerate() if thread.name.endswith("(_fill)")]
    return said, time.monotonic() - begun, len(readers)


def test_bad_data_on_one_rank_ends_both_and_their_reading_threads(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data", edit=_one_bad_label)
    results = on_ranks(_bad_data, 2, data, tmp_path / "run", init=False)
    assert [said for said, _, _ in results] == ["lost peer: True", "DataError: label 2.0 of task 'click'"]
    assert max(seconds for _, seconds, _ in results) < 30
    assert [readers for _, _, readers in results] == [0, 0]
    assert not (tmp_path / "run" / "checkpoints").exists()


def _trained(rank: int, world_size: int, data: Path, run_dir: Path) -> list[dict[str, Any]]:
    tables = []
    for seed in (0, 1):
        changes = {
            "seed": seed,
            "train": {
                "batch_size": 24,
                "steps": 21,
                "report_every": 50,
                "evaluate_every": 4,
                "best_metric": "click.ne",
            },
            "dense_optimizer": {"learning_rate": 0.03},
            "table_optimizer": {"learning_rate": 0.3},
            "checkpoint": {"every": 10, "keep": 2},
        }
        job = train_small(rank, world_size, small_config(data, changes), run_dir / str(seed))
        tables.append(whole_tables(job.model))
    return tables


def test_evaluations_checkpoints_and_the_best_one(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    tables = on_ranks(_trained, 1, data, tmp_path)[0]
    assert all(not (tables[0][name] == tables[1][name]).any(1).all() for name in tables[0]), "the seed must matter"
    found = records(tmp_path / "0")
    valid = [record for record in found if record["split"] == "valid"]
    assert [record["step"] for record in valid] == [4, 8, 12, 16, 20, 21]
    assert [record["step"] for record in found if record["split"] == "train"] == [4, 8, 10, 12, 16, 20, 21]
    scores = [record["tasks"]["click"]["ne"] for record in valid]
    assert [record["best"] for record in valid] == [score == min(scores[: i + 1]) for i, score in enumerate(scores)]
    best = valid[scores.index(min(scores))]["step"]
    checkpoints = tmp_path / "0" / "checkpoints"
    assert (checkpoints / "best").read_text() == f"step-{best}\n"
    assert {path.name for path in checkpoints.glob("step-*")} == {f"step-{best}", "step-20", "step-21"}
    manifest = json.loads((checkpoints / "step-21" / "manifest.json").read_text())
    assert manifest["written_by"].keys() == {
        *("ranks", "threads", "batch_size", "precision", "dataset", "table_rows", "tasks", "inputs")
    }
    assert manifest["written_by"]["tasks"] == ["click (binary)", "watch (regression)"]
    assert manifest["written_by"]["inputs"] == [
        "user (table user)",
        "item (table item)",
        "last_item (table item)",
        "history (table item, bag)",
        "tags (table tag, bag, weights)",
        "age (standard)",
        "price (log)",
        "score (quantile)",
        "bias (none)",
    ]
    assert min(scores) < scores[0], "there is something to learn"
