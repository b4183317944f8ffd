"""What a run and a dataset give: embeddings, gates, the log, metrics, rows; and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import ple_rec
from ple_rec.api.results import Metrics, read_history
from ple_rec.config.run import RunConfig
from ple_rec.data.encode import Encoder
from ple_rec.training.trained import load_trained_weights, open_trained_run
from tests.tiny import write_tiny

pytestmark = pytest.mark.usefixtures("no_charts")


def test_metrics_by_user_and_by_day_name_what_they_are_by(run: ple_rec.Run) -> None:
    assert run.metrics["gauc_by"] == {"gauc": "user_id", "subgroup_gauc": "user_id, time.day"}
    like = run.metrics["test"]["tasks"]["like"]
    assert like["subgroup_gauc"] == like["gauc"]  # The test split has one day.
    assert "subgroup GAUC by user_id, time.day over groups with both classes: like" in repr(run.metrics)


@pytest.mark.parametrize("name", ["video_id", "history", "user_id", "city", "price_bin"])
def test_embeddings_are_the_rows_that_raw_ids_read(run: ple_rec.Run, name: str) -> None:
    ids, vectors = run.embeddings(name)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(ids), run.config.embeddings.dim)
    schema = run.dataset.schema
    feature = next(each for each in schema.sparse if each.name == name)
    with open_trained_run(run.config, run.path, "best") as job:
        load_trained_weights(job, run.path, "best")
        key = f"embeddings.embedding_bags.{feature.table}.weight"
        whole = torch.cat([each.tensor for each in job.model.state_dict()[key].local_shards()]).numpy()
    if name == "price_bin":
        rows = np.asarray(ids)
    else:
        values = pa.array([[each] for each in ids.to_pylist()]) if feature.bag else ids
        found = Encoder(run.dataset.path, [feature]).rows(name, values, "here")
        rows = np.asarray(found.flatten() if feature.bag else found)
    assert (rows == np.arange(1, len(ids) + 1)).all()
    np.testing.assert_array_equal(vectors, whole[rows])
    assert not np.shares_memory(vectors, whole)


def test_gates_are_those_of_the_evaluation(run: ple_rec.Run) -> None:
    found = run.gates("test").table().to_pandas()
    assert list(found.columns) == ["level", "output", "expert", "shared", "mean", "std"]
    sums = found.groupby(["level", "output"])["mean"].sum()
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
    assert set(found["output"]) >= {"like", "watch"}
    train = run.gates("train")
    assert train.split == "train"
    assert len(train.table()) == len(found)
    assert "level 1, like: like.0 0." in repr(train)


def test_history_is_the_log(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    records: list[dict[str, Any]] = [
        {"split": "train", "step": 2, "loss": 0.5, "tasks": {"a": {"loss": 0.5, "auc": None, "curve": [1, 2]}}},
        {"split": "valid", "step": 2, "loss": 1, "best": True, "tasks": {"a": {"auc": 0.75}}},
    ]
    file.write_text("".join(json.dumps(each) + "\n" for each in records) + '{"split": "tr')
    assert read_history(tmp_path).to_pylist() == [
        {"split": "train", "step": 2, "loss": 0.5, "a.loss": 0.5, "a.auc": None, "best": None},
        {"split": "valid", "step": 2, "loss": 1.0, "a.loss": None, "a.auc": 0.75, "best": True},
    ]
    assert read_history(tmp_path / "none").to_pylist() == []


def test_metrics_are_a_mapping_and_a_table(run: ple_rec.Run) -> None:
    metrics = run.metrics
    assert list(metrics) == list(dict(metrics))
    assert len(metrics) == len(dict(metrics))
    rows = metrics.table().to_pylist()
    assert [(row["split"], row["task"]) for row in rows] == [
        ("valid", "like"),
        ("valid", "watch"),
        ("test", "like"),
        ("test", "watch"),
    ]
    assert rows[2]["auc"] == metrics["test"]["tasks"]["like"]["auc"]
    assert rows[3]["auc"] is None
    assert Metrics({}).table().num_rows == 0


def test_a_dataset_reads_its_rows(run: ple_rec.Run, tmp_path: Path) -> None:
    dataset = run.dataset
    assert dataset.tasks == {"like": "binary", "watch": "regression"}
    for split, rows in dataset.rows.items():
        assert len(dataset.read(split)) == rows  # type: ignore[arg-type]
    chosen = dataset.read("test", ["label_like", "user_id"])
    assert chosen.column_names == ["label_like", "user_id"]
    folder = tmp_path / "damaged"
    shutil.copytree(str(dataset.path), folder)
    damaged = ple_rec.open_dataset(folder)
    next((folder / "test").glob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(ple_rec.DataError, match="damaged/test: unreadable"):
        damaged.read("test")


def test_a_run_whose_directory_is_gone_or_damaged(run: ple_rec.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(str(run.path), tmp_path / "run")
    other = ple_rec.Run(folder)
    (folder / "metrics.json").write_text('{"test"')
    assert repr(other) == f"Run({str(other.path)!r}: finished, but metrics.json is damaged)"
    assert "metrics.json is damaged" in other._repr_html_()
    with pytest.raises(ple_rec.DataError, match=r"metrics\.json: damaged; it is JSON\. Fix: call `run\.evaluate"):
        _ = other.metrics
    assert other.evaluate("valid")["valid"]
    shutil.rmtree(folder)
    assert "its directory is gone" in repr(other)
    assert "its directory is gone" in other._repr_html_()
    for read in (lambda: other.status, lambda: other.history, lambda: other.metrics):
        with pytest.raises(ple_rec.UserError, match="no such directory"):
            read()


def test_another_dataset_in_the_place_of_the_runs(
    run: ple_rec.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path)
    monkeypatch.setattr(ple_rec.Run, "config", replaced_path(run.config, tmp_path / "data"))
    for call in (lambda: run.dataset, lambda: run.embeddings("user_id")):
        with pytest.raises(ple_rec.UserError, match=r"is dataset .* was trained on dataset"):
            call()


def replaced_path(config: RunConfig, path: Path) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})


def test_a_split_without_files_is_damaged(run: ple_rec.Run, tmp_path: Path) -> None:
    copy = ple_rec.open_dataset(shutil.copytree(str(run.dataset.path), tmp_path / "data"))
    shutil.rmtree(tmp_path / "data" / "valid")
    with pytest.raises(ple_rec.DataError, match="valid: no Parquet files"):
        copy.read("valid")


@pytest.mark.parametrize("name", ["123", "true", "[1]", 'a"b', "it's"])
def test_a_folder_may_have_any_name(
    run: ple_rec.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).symlink_to(str(run.dataset.path))
    monkeypatch.chdir(tmp_path)
    assert run.predict(name).equals(run.predict())


def test_a_comparison_says_what_was_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has not failed; the verb ends with exit code 75."""
    from ple_rec.analysis.compare.compare import ComparisonResult

    monkeypatch.chdir(tmp_path)
    done = ComparisonResult("{}", ["ple seed 1"], ["ple, seed 0"])
    monkeypatch.setattr("ple_rec.analysis.compare.compare.run_comparison", lambda *_, **__: done)
    found = ple_rec.compare("census-compare")
    assert (found.failed, found.stopped) == (["ple seed 1"], ["ple, seed 0"])
