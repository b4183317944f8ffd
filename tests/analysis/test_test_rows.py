"""`test_rows.npz`: its rows are those of the test split in order, and metrics computed from it are the run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ple_rec.analysis.analyze import analyze
from ple_rec.analysis.test_rows import read_rows
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import DataError, UserError
from ple_rec.training.preflight import load_run_config
from ple_rec.training.run import train
from tests.data.oracle import rows_of


def collect(run: Path) -> Path:
    analyze(run, by=(), batches=1)
    return run / "test_rows.npz"


def test_metrics_computed_from_the_rows_are_those_of_the_run(tiny_run: Path) -> None:
    from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

    path = collect(tiny_run)
    tasks = json.loads((tiny_run / "metrics.json").read_text())["test"]["tasks"]
    with np.load(path) as rows:
        assert rows["tasks"].tolist() == list(tasks) == ["click", "watch"]
        labels, weights, scores, group = (rows[name] for name in ("labels", "weights", "scores", "group"))
    assert labels.shape == weights.shape == scores.shape == (101, 2)
    assert {array.dtype for array in (labels, weights, scores)} == {np.dtype(np.float32)}
    assert (group.shape, group.dtype) == ((101,), np.int64)
    click, watch = ((labels[:, k], scores[:, k], weights[:, k]) for k in (0, 1))
    assert tasks["click"]["auc"] == pytest.approx(roc_auc_score(*click[:2], sample_weight=click[2]), abs=1e-9)
    assert tasks["click"]["logloss"] == pytest.approx(log_loss(*click[:2], sample_weight=click[2]), rel=1e-5)
    assert tasks["watch"]["mse"] == pytest.approx(mean_squared_error(*watch[:2], sample_weight=watch[2]), rel=1e-5)
    assert (weights[:, 1] > 0).sum() == tasks["watch"]["samples"] < 101


def test_rows_stand_in_the_order_of_the_split(tiny_run: Path) -> None:
    expected = rows_of(DatasetDirectory(tiny_run.parent / "data"), "test")
    with np.load(collect(tiny_run)) as rows:
        assert rows["group"].tolist() == [row["request"] for row in expected]
        assert rows["labels"][:, 0].tolist() == [row["click"] for row in expected]
        np.testing.assert_allclose(rows["weights"][:, 0], [row["weight"] for row in expected], rtol=1e-6)
        watched = [bool(row["watched"]) for row in expected]
        assert (rows["weights"][:, 1] > 0).tolist() == watched
        times = [row["watch_time"] for row in expected if row["watched"]]
        np.testing.assert_allclose(rows["labels"][watched, 1], times, rtol=1e-6)


def test_a_run_that_has_no_results_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    (copy / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json: damaged; only a run that has finished and been evaluated"):
        collect(copy)
    (copy / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"run: interrupted at step 6; .* Fix: `ple-rec train --resume --run-dir"):
        collect(copy)


@pytest.mark.usefixtures("no_charts")
def test_a_run_that_is_evaluated_anew_drops_what_was_made_of_it(tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    assert collect(copy).is_file()
    train(load_run_config(copy), copy, resume=True)
    assert (copy / "metrics.json").is_file()
    assert not (copy / "test_rows.npz").exists()


def test_columns_are_read_in_the_order_that_is_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    collect(tiny_run)
    as_written, turned = (read_rows(tiny_run, tasks) for tasks in (["click", "watch"], ["watch", "click"]))
    assert as_written is not None
    assert turned is not None
    for name in ("labels", "weights", "scores"):
        np.testing.assert_array_equal(as_written[name][:, ::-1], turned[name])
    assert read_rows(tiny_run, ["click", "like"]) is None
    (tmp_path / "test_rows.npz").write_bytes((tiny_run / "test_rows.npz").read_bytes()[:200])
    assert read_rows(tmp_path, ["click", "watch"]) is None
