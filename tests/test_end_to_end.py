"""The demo's path on a slice of made-up census rows: prepare, train, evaluate again.

The fast test is one process and a few features; the slow one trains all features on two ranks by torchx, as the demo.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from data_prep import run
from data_prep.datasets.census import COLUMNS
from ple_rec.cli import main
from tests.data_prep.datasets.census_slice import (
    NEVER_MARRIED,
    TEST_ROWS,
    TRAIN_ROWS,
    in_valid,
    make_rows,
    make_source,
    write_raw,
)
from tests.tiny import environment, processes_in

CONFIG = """\
name = "slice"

[data]
path = "data/census"
drop = ["age_id"]

[embeddings]
dim = 4

[model]
variant = "ple"

[[model.levels]]
expert_hidden = [8]

[[model.levels]]
expert_hidden = [8]

[dense_optimizer]
learning_rate = 0.02

[train]
batch_size = 32
epochs = 4
report_every = 10
best_metric = "never_married.auc"
"""
MARRIED = "Married-civilian spouse present"


def make_learnable(rows: list[list[str]]) -> list[list[str]]:
    """Nobody below 30 has been married, everybody else has."""
    age, status = COLUMNS.index("age"), COLUMNS.index("marital_status")
    for row in rows:
        row[status] = NEVER_MARRIED if int(row[age]) < 30 else MARRIED
    return rows


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    """The working directory: raw files, which `prep census` takes for its own, and the configuration of a run."""
    train, test = make_learnable(make_rows(TRAIN_ROWS, 1)), make_learnable(make_rows(TEST_ROWS, 2))
    write_raw(tmp_path / "raw", train, test)
    (tmp_path / "slice.toml").write_text(CONFIG)
    monkeypatch.setitem(run.BUILT_IN, "census", make_source(train, test))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(repository))
    return tmp_path


PREP = ["prep", "census", "--out", "data/census", "--from", "raw"]
FEW = ["--set", 'sparse=[{name="education"},{name="age_id",value="age"}]', "--set", "tables="]


def test_from_raw_rows_to_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PREP, *FEW]) == 0
    assert "2 sparse features, 7 dense" in capsys.readouterr().out
    assert main(["train", "--config", "slice.toml", "--set", "runtime.threads=1"]) == 0
    said = capsys.readouterr().out
    assert "report: runs/slice/report.html" in said
    metrics = check_run(here / "runs" / "slice", said, ranks=1)
    assert main(["evaluate", "runs/slice", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["checkpoint"] == metrics["checkpoint"]
    assert again["test"]["tasks"] == metrics["test"]["tasks"]


@pytest.mark.slow
def test_from_raw_rows_to_the_report_by_torchx(repository: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(PREP) == 0
    assert "45 sparse features, 7 dense" in capfd.readouterr().out
    torchx = [sys.executable, "-c", "from torchx.cli.main import main; main()", "run", "-s", "local_cwd"]
    component = [f"{repository / 'launch' / 'components.py'}:train", "--config", "slice.toml", "--nproc", "2"]
    done = subprocess.run(
        [*torchx, *component], env=environment(repository), capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "report: runs/slice/report.html" in done.stderr  # torchx hands the job's output on there
    assert not processes_in(here)

    folder = here / "runs" / "slice"
    metrics = check_run(folder, done.stderr, ranks=2)
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["runtime"]["threads"] == 1  # said by the launcher: two cores, two ranks
    for ranks, tolerance in ((2, 0), (1, 1e-6)):  # a batch of another size is multiplied in another order
        argv = ["evaluate", "runs/slice", "--json", "--ranks", str(ranks), "--set", "runtime.threads=1"]
        assert main(argv) == 0
        again = json.loads(capfd.readouterr().out)
        assert again["checkpoint"] == metrics["checkpoint"]
        for task, values in metrics["test"]["tasks"].items():
            expected = {name: pytest.approx(value, rel=tolerance, abs=0) for name, value in values.items()}
            # Two of the 150 rows whose scores are that close may change places.
            expected["auc"] = pytest.approx(values["auc"], rel=0, abs=1e3 * tolerance)
            assert again["test"]["tasks"][task] == expected
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def check_run(folder: Path, said: str, *, ranks: int) -> dict[str, Any]:
    """Hold what a run wrote and said against what there was to learn; its metrics."""
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    assert metrics["world_size"] == ranks
    check_run_directory(folder, metrics)
    check_metrics(metrics)
    table = said.partition("test split, checkpoint ")[2]
    for task in ("income", "never_married"):
        assert f"{metrics['test']['tasks'][task]['auc']:.4f}" in table
    return metrics


def check_run_directory(run: Path, metrics: dict[str, Any]) -> None:
    present = {path.name for path in run.iterdir()}
    assert present >= {"config.toml", "plan.json", "train.jsonl", "metrics.json", "report.html", "checkpoints"}
    records = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["split"] == "train"][-1] == metrics["steps"]
    losses = [record["loss"] for record in records if record["split"] == "valid"]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert (run / "checkpoints" / metrics["checkpoint"] / "manifest.json").is_file()
    report = (run / "report.html").read_text()
    assert "never_married" in report
    assert "<svg" in report


def check_metrics(metrics: dict[str, Any]) -> None:
    assert metrics["parameters"]["tables"] > 0
    assert metrics["samples_per_second"] > 0
    valid = sum(in_valid(position) for position in range(TEST_ROWS))
    for split, samples in (("valid", valid), ("test", TEST_ROWS - valid)):
        tasks = metrics[split]["tasks"]
        assert {values["samples"] for values in tasks.values()} == {samples}
        assert tasks["never_married"]["auc"] > 0.85  # it follows from the age
        assert tasks["never_married"]["ne"] < 0.8
        assert 0.3 < tasks["income"]["auc"] < 0.7  # it follows from nothing
    assert metrics["paper"].keys() == {"income", "never_married"}
