"""Yesterday's run reads today's dataset as yesterday's export reads the same raw rows, whichever verb loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import ple_rec
from ple_rec.cli import main
from ple_rec.training.run import evaluate_run, train
from tests.training.growing_feed import CAPACITY, HASH_ROWS, write_feed
from tests.training.small import small_config

pytestmark = pytest.mark.usefixtures("no_charts")

DAYS = 5
Floats = NDArray[np.float64]


class Days(NamedTuple):
    """A run of the day before the last one.

    Args:
        run: Its directory.
        newer: Dataset of the last day.
        raw_rows: Rows of the log that are the test split of this dataset, in its order.
        comparable: True for each of them whose ids have not lost their rows on the last day.
        by_export: Probability of each, as the export of the run on its own dataset scores it.
    """

    run: Path
    newer: Path
    raw_rows: pa.Table
    comparable: NDArray[np.bool_]
    by_export: Floats


def values(data: Path, table: str) -> set[Any]:
    return set(pq.read_table(data / "vocab" / f"{table}.parquet")["raw"].to_pylist()) - {None}


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    folder = tmp_path_factory.mktemp("days")
    *_, older, newer = write_feed(folder, 2, days=DAYS)
    tables = {"user_id": {"id_dropout": 0.3}, "video_id": {"id_dropout": 0.1}}
    config = {"embeddings": {"dim": 4, "tables": tables}, "train": {"batch_size": 12, "steps": 60, "report_every": 60}}
    train(small_config(older, config | {"table_optimizer": {"learning_rate": 0.5}}), folder / "run")
    log = pq.read_table(folder / "raw" / "log" / f"day-{DAYS}.parquet")
    prices = log["price"].to_numpy().astype(np.float32).tolist()
    raw_rows = log.take([prices.index(price) for price in pq.read_table(newer / "test")["price"].to_pylist()])
    lost = {name: values(older, name) - values(newer, name) for name in CAPACITY}
    comparable = [all(row[name] not in lost[name] for name in CAPACITY) for row in raw_rows.to_pylist()]
    model = ple_rec.Run(folder / "run").export(folder / "model")
    by_export = model.score(raw_rows.select(["user_id", "video_id", "price"]))["like"].to_numpy()
    return Days(folder / "run", newer, raw_rows, np.array(comparable), by_export)


def check_scores(days: Days, scores: Any) -> None:
    assert len(scores) == len(days.by_export)
    difference = np.abs(np.asarray(scores, np.float64) - days.by_export)[days.comparable]
    assert difference.max() < 1e-6


def test_the_newer_dataset_has_new_values(days: Days) -> None:
    """Rows of new values are among those that are compared, and they do not all read the same row."""
    for name, each in new_values(days).items():
        is_new = np.array([value in each for value in days.raw_rows[name].to_pylist()])
        assert (is_new & days.comparable).sum() > 2, name
    assert HASH_ROWS == {"user_id": 0, "video_id": 4}


def new_values(days: Days) -> dict[str, set[Any]]:
    older = Path(ple_rec.Run(days.run).config.data.path)
    return {name: values(days.newer, name) - values(older, name) for name in CAPACITY}


def test_the_log_counts_the_rows(days: Days, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = ", ".join(f"{name} {len(new)}" for name, new in new_values(days).items())
    newer = ["--set", f"data.path={days.newer}"]
    older = ple_rec.Run(days.run).dataset.fingerprint[:12]
    unknown = f"rows read as unknown, since dataset {older} does not have their values: {counts}"
    assert main(["evaluate", str(days.run), *newer]) == 0
    assert unknown in capsys.readouterr().out.splitlines()
    for verb in (["evaluate"], ["predict", "--data", str(days.newer), "--out", str(tmp_path / "predictions")]):
        assert main([verb[0], str(days.run), *verb[1:], *newer, "--json"]) == 0
        printed = capsys.readouterr()
        assert unknown in printed.err.splitlines()
        assert json.loads(printed.out)["checkpoint"]
    verb = ["train", "--config", f"{days.run}/config.toml", *newer, "--set", "train.steps=2"]
    assert main([*verb, "--run-dir", str(tmp_path / "next"), "--init-from", str(days.run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"initial weights for rows of values that dataset {older} does not have: {counts}" in lines
    assert not any(line.startswith("rows read as unknown") for line in lines)


def test_predict_scores_the_dataset_as_the_export_scores_its_raw_rows(days: Days) -> None:
    predictions = ple_rec.Run(days.run).predict(days.newer, "test")
    check_scores(days, predictions["like"])


def test_predict_scores_raw_rows_by_the_newer_vocabularies(days: Days) -> None:
    raw = days.raw_rows.drop_columns(["is_like"])
    predictions = ple_rec.Run(days.run).predict(raw, overrides={"data.path": str(days.newer)})
    check_scores(days, predictions["like"])


def test_evaluate_reads_the_same_scores(days: Days) -> None:
    test = evaluate_run(days.run, splits=["test"], checkpoint="best", overrides=[f"data.path={days.newer}"])["test"]
    predictions = ple_rec.Run(days.run).predict(days.newer, "test")["like"].to_numpy()
    labels = days.raw_rows["is_like"].to_numpy()
    loss = -np.where(labels, np.log(predictions), np.log1p(-predictions)).mean()
    assert test["tasks"]["like"]["logloss"] == pytest.approx(loss, rel=1e-5)
