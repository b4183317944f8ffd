"""The synthetic dataset directories that other tests read: complete, switchable, learnable."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.output.summary import Summary
from ple_rec.config.schema import FINGERPRINT_KEY
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.loader import Loader
from tests.datasets import TABLES, write_dataset


def test_directory_is_complete(tmp_path: Path) -> None:
    schema = write_dataset(tmp_path / "data", rows=100, row_group_rows=30, parts=2)
    assert DatasetDirectory(tmp_path / "data").schema == schema
    assert {split: (info.rows, info.row_groups) for split, info in schema.splits.items()} == {
        "train": (100, 4),
        "valid": (50, 2),
        "test": (50, 2),
    }
    files = sorted((tmp_path / "data").glob("*/part-*.parquet"))
    assert [f"{file.parent.name}/{file.name}" for file in files] == [
        "test/part-00000.parquet",
        "train/part-00000.parquet",
        "train/part-00001.parquet",
        "valid/part-00000.parquet",
    ]
    for file in files:
        assert pq.read_metadata(file).metadata[FINGERPRINT_KEY] == schema.fingerprint.encode()
    assert {file.stem: pq.read_metadata(file).num_rows + 1 for file in (tmp_path / "data/vocab").iterdir()} == TABLES
    assert "click" in str(Summary.read(tmp_path / "data", reused=True))


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", rows=100)
    stats = json.loads((tmp_path / "data/stats.json").read_text())
    train = pq.read_table(tmp_path / "data/train/part-00000.parquet").to_pydict()
    ages = [age for age in train["age"] if age is not None]
    assert stats["version"] == 2
    assert stats["rows"] == {"train": 100, "valid": 50, "test": 50}
    assert stats["columns"]["age"]["train"]["nulls"] == train["age"].count(None) > 0
    assert stats["columns"]["age"]["train"]["std"] == pytest.approx(statistics.pstdev(ages))
    assert stats["columns"]["item"]["train"]["oov"] == train["item"].count(0)
    assert stats["tasks"]["click"]["train"]["positives"] == sum(train["click"])
    assert stats["tasks"]["watch"]["train"]["samples"] == sum(train["watched"])
    assert [label is None for label in train["watch_time"]] == [not inside for inside in train["watched"]]


def test_a_bag_without_statistics_takes_none_from_the_others(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", rows=100)
    (tmp_path / "data/_SUCCESS").write_text("")  # without digests
    stats = json.loads((tmp_path / "data/stats.json").read_text())
    features = DatasetDirectory(tmp_path / "data").schema.sparse
    stats["columns"]["history"]["train"]["mean_length"] = 2.5
    del stats["columns"]["tags"]
    (tmp_path / "data/stats.json").write_text(json.dumps(stats))
    found = DatasetDirectory(tmp_path / "data").ids_per_sample(features)
    assert found == {f.name: 2.5 if f.bag else 1.0 for f in features if f.name != "tags"}
    (tmp_path / "data/stats.json").write_text("[]")
    assert set(DatasetDirectory(tmp_path / "data").ids_per_sample(features)) == {f.name for f in features if not f.bag}


def test_same_arguments_same_dataset(tmp_path: Path) -> None:
    schemas = [write_dataset(tmp_path / str(i) / "data", rows=40, seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert schemas[0] == schemas[1]
    assert schemas[0].fingerprint != schemas[2].fingerprint


SWITCHES: dict[str, dict[str, Any]] = {
    "single": {"sparse": ["history", "tags", "last_item"]},
    "shared_table": {"sparse": ["user", "history", "item", "tags"]},
    "bag": {"sparse": ["user", "item", "tags", "last_item"]},
    "weighted_bag": {"sparse": ["user", "history", "item", "last_item"]},
    "dense": {"dense": []},
    "binary": {"tasks": ["watch"]},
    "regression": {"tasks": ["click"]},
    "sample_weight": {"sample_weight": None},
    "group": {"group": None},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches(tmp_path: Path, switch: str) -> None:
    def names(**switches: bool) -> dict[str, Any]:
        path = tmp_path / str(len(switches))
        schema = write_dataset(path, rows=40, row_group_rows=10, **switches)  # type: ignore[arg-type]
        dataset = DatasetDirectory(path)
        selection = dataset.select(drop=[], tasks=[])
        assert set(dataset.statistics()) == {f.name for f in selection.sparse} | {f.name for f in selection.dense}
        one = Loader(dataset, "train", selection, batch_size=20, rank=0, world_size=1, virtual_shards=2)
        assert sum(batch.rows for batch in one.epoch(0)) == 40
        return {
            "sparse": [f.name for f in schema.sparse],
            "dense": [f.name for f in schema.dense],
            "tasks": [task.name for task in schema.tasks],
            "sample_weight": schema.sample_weight,
            "group": schema.group,
        }

    assert names(**{switch: False}) == names() | SWITCHES[switch]


def test_space_switch(tmp_path: Path) -> None:
    schema = write_dataset(tmp_path / "data", rows=40, space=False)
    assert [task.space for task in schema.tasks] == [None, None]
    assert pq.read_table(tmp_path / "data/train/part-00000.parquet")["watch_time"].null_count == 0


def test_labels_are_learnable(tmp_path: Path) -> None:
    """Ridge regression on one-hot ids, bag sums and dense features, from train to test."""
    write_dataset(tmp_path / "data", rows=1024)
    x, click, watch, watched = zip(*(_matrices(tmp_path / "data" / split) for split in ("train", "test")), strict=True)
    weights = np.linalg.solve(x[0].T @ x[0] + 3 * np.eye(x[0].shape[1]), x[0].T @ (click[0] - 0.5))
    scores = x[1] @ weights
    positive, negative = scores[click[1] == 1], scores[click[1] == 0]
    assert np.mean(positive[:, None] > negative[None]) > 0.85  # AUC
    seen = watched[0]
    weights = np.linalg.solve(x[0][seen].T @ x[0][seen] + 3 * np.eye(x[0].shape[1]), x[0][seen].T @ watch[0][seen])
    error = (x[1] @ weights - watch[1])[watched[1]]
    assert error.var() < 0.6 * watch[1][watched[1]].var()


def _matrices(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows = pq.read_table(folder / "part-00000.parquet").to_pylist()
    x = np.zeros((len(rows), sum(TABLES.values()) + 4))
    for i, row in enumerate(rows):
        x[i, row["user"]] += 1
        for item in [row["item"], row["last_item"]]:
            x[i, 24 + item] += 1
        for item in row["history"] or []:
            x[i, 24 + item] += 0.5
        for tag, weight in zip(row["tags"] or [], row["tag_weights"] or [], strict=True):
            x[i, 64 + tag] += 0.5 * weight
        age, price, score = row["age"], row["price"], row["score"]
        x[i, 76:79] = [
            0 if age is None else (age - 40) / 12,
            0 if price is None else np.log(price),
            0 if score is None else np.cbrt(score),
        ]
        x[i, 79] = 1
    click = np.array([row["click"] for row in rows])
    watch = np.array([row["watch_time"] or 0.0 for row in rows])
    return x, click, watch, np.array([row["watched"] for row in rows])
