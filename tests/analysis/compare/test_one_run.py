"""A run of a comparison: the conflict of its tasks over training, its analysis, and what is left of a damaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ple_rec.analysis.analyze import analyze
from ple_rec.analysis.compare.one_run import train_one
from ple_rec.analysis.compare.task_relations import average_conflict
from ple_rec.config.load import with_values
from ple_rec.errors import DataError, DivergedError, UserError
from ple_rec.reports.analysis.page import write_analysis
from ple_rec.training.preflight import load_run_config
from tests.training.small import TIMES

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Path:
    """Of the same configuration as `tiny_run`, trained as a run of a comparison."""
    run = tiny_run.parent / "compared"
    train_one(load_run_config(tiny_run), run, write_analysis)
    return run


def _records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def test_measuring_conflict_changes_nothing_of_the_run(tiny_run: Path, run: Path) -> None:
    measured = _records(run)
    conflict = {record["step"]: record.pop("gradient_conflict") for record in measured if record["split"] == "valid"}
    assert measured == _records(tiny_run)
    assert list(conflict) == [2, 4, 6]
    metrics = [json.loads((each / "metrics.json").read_text()) for each in (run, tiny_run)]
    assert metrics[0]["test"] == metrics[1]["test"]


def test_conflict_in_training_is_that_of_the_checkpoints(tiny_run: Path, run: Path) -> None:
    at = {record["step"]: record["gradient_conflict"] for record in _records(run) if record["split"] == "valid"}
    found = analyze(tiny_run, by=(), batches=20)
    assert {step.step: [each.record() for each in step.conflicts] for step in found.steps} == at
    (told,) = average_conflict([run])
    assert told["inputs"] == [pairs[0]["inputs"]["mean"] for pairs in at.values()]


def test_the_run_is_analysed(run: Path) -> None:
    assert json.loads((run / "analysis.json").read_text())["gradient_conflict"]["batches"] == 9
    assert {"test_rows.npz", "analysis.html", "report.html"} <= {file.name for file in run.iterdir()}


@pytest.mark.parametrize("best", [False, True])
def test_without_an_analysis_a_run_counts_and_without_its_rows_it_does_not(
    run: Path, tmp_path: Path, best: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in ("test_rows.npz", "analysis.json", "analysis.html"):
        (copy / name).unlink()
    kept = (copy / "checkpoints" / "best").read_text().strip()
    names = [f"step-{step}" for step in (2, 4, 6)]
    damaged = kept if best else next(name for name in names if name != kept)
    for file in (copy / "checkpoints" / damaged).glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:-8])
    if best:
        with pytest.raises(DataError, match=kept):
            train_one(load_run_config(copy), copy, write_analysis)
    else:
        train_one(load_run_config(copy), copy, write_analysis)
        assert f"no analysis of this run: {copy / 'checkpoints' / damaged}" in capsys.readouterr().err
    assert (copy / "test_rows.npz").exists() != best
    assert not (copy / "analysis.json").exists()


def test_a_start_of_other_settings_that_came_to_nothing_is_replaced_and_a_run_is_not(
    tiny_run: Path, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", load_run_config(tiny_run)
    with pytest.raises(DivergedError):
        train_one(with_values(config, {"dense_optimizer.learning_rate": 1e30}), run, write_analysis)
    assert not list(run.glob("checkpoints/step-*"))
    train_one(config, run, write_analysis)
    assert (run / "metrics.json").is_file()
    with pytest.raises(UserError, match="learning_rate"):
        train_one(with_values(config, {"dense_optimizer.learning_rate": 0.1}), run, write_analysis)
