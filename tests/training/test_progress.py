"""The line of a record as whole text, and what `train.jsonl` holds."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from ple_rec.distributed.collectives import PeerError
from ple_rec.errors import UserError
from ple_rec.training import progress
from ple_rec.training.progress import TrainingProgress
from tests.training.small import on_ranks, ranks_of, records, small_config, train_small, write_small

TRAIN: dict[str, Any] = {
    "split": "train",
    "step": 1200,
    "loss": 0.41234,
    "tasks": {
        "click": {"loss": 0.4, "weight": 1.0, "ne": 0.8712, "auc": 0.74204},
        "watch": {"loss": 2.0, "weight": 0.5, "mse": 2.00004},
        "rare": {"loss": 0.0, "weight": 1.0},
    },
    "samples_per_second": 1_934_000.0,
    "data_wait": 0.0213,
    "peak_bytes": 44_238_000_000,
    "eta_seconds": 2471.3,
}
VALID: dict[str, Any] = {
    "split": "valid",
    "step": 85,
    "loss": 1.5,
    "tasks": {"click": {"auc": 0.75, "ne": 0.9, "logloss": 0.5}, "watch": {"mse": 0.25, "rmse": 0.5}},
    "best": True,
}


def test_line_of_a_training_record() -> None:
    assert progress._line(TRAIN, 50000) == (
        "step  1200/50000  loss 0.4123  click ne 0.8712 auc 0.7420  watch mse 2.0000  rare -  1.93 M samples/s  data "
        "2 %  peak 41.2 GiB  ETA 41:11"
    )


def test_line_of_a_validation_record() -> None:
    assert progress._line(VALID, 85) == "step 85/85  valid loss 1.5000  click ne 0.9000 auc 0.7500  watch mse 0.2500"
    worse = VALID | {"best": False, "tasks": {"click": {"auc": None, "ne": None, "logloss": 0.5}}}
    assert progress._line(worse, 85) == "step 85/85  valid loss 1.5000  click -"


@pytest.mark.parametrize(
    ("rate", "eta", "said"),
    [
        (999.6, 0.4, "1.00 k samples/s  data 2 %  peak 41.2 GiB  ETA 0:00"),
        (999_999.0, 59.9, "1.00 M samples/s  data 2 %  peak 41.2 GiB  ETA 0:59"),
        (12.3, 3600.0, "12 samples/s  data 2 %  peak 41.2 GiB  ETA 1:00:00"),
        (45_600.0, 360_061.0, "45.6 k samples/s  data 2 %  peak 41.2 GiB  ETA 100:01:01"),
    ],
)
def test_rates_and_clocks(rate: float, eta: float, said: str) -> None:
    record = TRAIN | {"tasks": {}, "samples_per_second": rate, "eta_seconds": eta}
    assert progress._line(record, 1200) == f"step 1200/1200  loss 0.4123  {said}"


def _log(rank: int, world_size: int, log: Path) -> tuple[str, str, list[str]]:
    """What was printed, the log, and what a full disk led to."""
    sys.stdout = printed = io.StringIO()
    ranks = ranks_of(rank, world_size)
    first = TrainingProgress(ranks, log, 0, 85)
    for step in (10, 20, 30):
        first.record(VALID | {"step": step})
    first.close()
    again = TrainingProgress(ranks, log, 20, 85)  # goes on from step 20
    again.advance()
    again.record(VALID | {"step": 25})
    said = []
    again.file = Path("/dev/full").open("a") if rank == 0 else None  # noqa: SIM115 - left to the end of the process
    try:
        again.record(VALID)
    except (UserError, PeerError) as error:
        said.append(f"{type(error).__name__}: {error}")
    again.close()
    return printed.getvalue(), log.read_text(), said


def test_one_rank_writes_and_a_full_disk_is_said_on_every_rank(tmp_path: Path) -> None:
    log = tmp_path / "train.jsonl"
    first, second = on_ranks(_log, 2, log)
    assert [line.split("  ")[0] for line in first[0].splitlines()] == [f"step {n}/85" for n in (10, 20, 30, 25)]
    assert second[0] == ""
    assert [record["step"] for record in records(tmp_path)] == [10, 20, 25]
    assert first[2] == [
        f"UserError: {log}: cannot be written (No space left on device); a run needs room and permission. Fix: free "
        "space or correct the permission, then run again"
    ]
    assert second[2] == ["PeerError: rank 0 failed with exit code 2"]


HEAD = {"split", "step", "total_steps", "epoch", "samples", "seconds", "loss", "tasks"}
HEAD |= {"learning_rate", "table_learning_rate"}
SPEED = {"steps", "samples_per_second", "data_wait", "peak_bytes", "eta_seconds"}


def _reports(rank: int, world_size: int, log: Path) -> str:
    sys.stdout = printed = io.StringIO()
    own = TrainingProgress(ranks_of(rank, world_size), log, 0, 41)
    for step, steps in ((20, 20), (40, 20), (41, 1)):
        own.record(TRAIN | {"step": step, "steps": steps, "seconds": step})
    own.close()
    return printed.getvalue()


def test_a_report_over_few_steps_says_so(tmp_path: Path) -> None:
    (printed,) = on_ranks(_reports, 1, tmp_path / "train.jsonl")
    assert [line.split("  ")[-1] for line in printed.splitlines()] == ["ETA 41:11", "ETA 41:11", "over 1 step"]


def _run(rank: int, world_size: int, data: Path, run_dir: Path) -> None:
    changes = {
        "tasks": [{"name": "watch", "weight": 0.5, "decay": 0.5}, {"name": "click"}],
        "train": {"batch_size": 24, "steps": 11, "report_every": 3, "weight_schedule": "epoch"},
        "schedule": {"warmup_steps": 1},
    }
    train_small(rank, world_size, small_config(data, changes), run_dir)


def test_records_have_the_documented_keys(tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    on_ranks(_run, 2, data, tmp_path / "run")
    found = records(tmp_path / "run", times=True)
    assert [(r["split"], r["step"], r["epoch"]) for r in found] == [
        ("train", 3, 0),
        ("train", 6, 0),
        ("train", 9, 0),
        ("valid", 9, 0),
        ("train", 11, 1),
        ("valid", 11, 1),
    ]
    for record in found:
        train = record["split"] == "train"
        assert record.keys() == HEAD | (SPEED if train else {"best"})
        assert record["samples"] == round(203 * record["step"] / 9)  # padding does not count
        assert record["learning_rate"] == 1e-3
        assert list(record["tasks"]) == ["watch", "click"]
    train = [record for record in found if record["split"] == "train"]
    for record in train:
        assert record["tasks"]["watch"].keys() == {"loss", "weight", "mse"}
        assert record["tasks"]["click"].keys() == {"loss", "weight", "ne", "auc"}
        assert record["tasks"]["watch"]["loss"] == pytest.approx(record["tasks"]["watch"]["mse"], rel=1e-5)
        parts = [task["weight"] * task["loss"] for task in record["tasks"].values()]
        assert record["loss"] == pytest.approx(sum(parts))
        assert 0 <= record["data_wait"] <= 1
        assert record["samples_per_second"] > 0
        assert record["peak_bytes"] > 1 << 20
    assert [record["tasks"]["watch"]["weight"] for record in train] == [0.5, 0.5, 0.5, 0.25]
    assert [record["tasks"]["click"]["weight"] for record in train] == [1.0] * 4
    assert [record["steps"] for record in train] == [3, 3, 3, 2]
    assert train[-1]["eta_seconds"] == 0
    valid = found[3]
    assert valid["best"] is True
    assert {"auc", "ne", "logloss", "calibration", "samples"} <= valid["tasks"]["click"].keys()
    assert {"mse", "rmse", "mae", "samples"} <= valid["tasks"]["watch"].keys()
    assert valid["loss"] == pytest.approx(0.5 * valid["tasks"]["watch"]["mse"] + valid["tasks"]["click"]["logloss"])
