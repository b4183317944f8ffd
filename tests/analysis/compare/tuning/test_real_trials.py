"""Trials that really train: judged on the validation split, with the test split unread; one that diverges is no end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.output.parts import write_part
from ple_rec.analysis.compare import compare as module
from ple_rec.analysis.compare.compare import run_comparison
from ple_rec.config.base import Split
from ple_rec.config.load import load_config, load_schema, with_values
from ple_rec.config.run import RunConfig
from ple_rec.errors import DataError
from ple_rec.reports.compare.page import report_comparison
from ple_rec.runs.directory import RunDirectory
from ple_rec.training import run as training
from ple_rec.training.run import train
from tests.analysis.compare.comparisons import comparison
from tests.analysis.compare.tuning.tuners import RATE, Real
from tests.datasets import set_column
from tests.messages import logged
from tests.tiny import GROUP_ROWS, write_tiny

ROOT = Path("runs/cmp")
ALONE = {"base": "tiny.toml", "overrides": ["model.variant=single_task", "model.bottom=[4]"]}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no reports, which take seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ple_rec.reports.run.page.write_report", lambda run_dir: run_dir / "report.html")
    monkeypatch.setattr("ple_rec.reports.compare.page.write_page", lambda _, root: root / "compare.html")
    return tmp_path


def test_trials_leave_the_test_split_to_the_tuned_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, evaluated = Real(), list[Split]()
    monkeypatch.setattr(module, "Worker", lambda **_: worker)
    evaluate = training._evaluate_split

    def counted(job: Any, split: Split, preemption: Any = None) -> dict[str, Any]:
        evaluated.append(split)
        return evaluate(job, split, preemption)

    monkeypatch.setattr(training, "_evaluate_split", counted)
    space = {RATE: {"choices": [0.05, 1e30]}}
    variants = {"single_task": ALONE, "ple": {"base": "tiny.toml"}}
    asked = comparison(here, seeds=1, tune={"trials": 4, "space": space}, variants=variants)
    said: list[str] = []
    with logged(said.append):
        done = run_comparison(asked, here, (), RunDirectory(ROOT, ROOT), report=report_comparison, jobs=1)
    assert done is not None
    assert worker.trained[-2:] == ["single_task/seed-0", "ple/seed-0"]
    for variant in variants:
        study = json.loads((ROOT / variant / "tune.json").read_text())
        assert [trial["state"] for trial in study["trials"]].count("failed") > 0  # of the rate of 1e30
        assert all((trial["state"] == "failed") == (trial["values"][RATE] == 1e30) for trial in study["trials"])
        assert "not finite" in (ROOT / variant / "tune" / f"trial-{_failed(study)}.failed").read_text()
        assert study["trials"][study["best"]]["values"] == {RATE: 0.05}
        for n, trial in enumerate(study["trials"]):
            folder = ROOT / variant / "tune" / f"trial-{n}"
            assert not {"checkpoints", "test_rows.npz", "tensorboard"} & {path.name for path in folder.iterdir()}
            if trial["state"] == "finished":
                metrics = json.loads((folder / "metrics.json").read_text())
                assert "test" not in metrics
                loss = sum(task["logloss"] for task in metrics["valid"]["tasks"].values())
                assert trial["loss"] == pytest.approx(loss, rel=1e-6)
        assert load_config(RunConfig, ROOT / variant / "seed-0" / "config.toml").dense_optimizer.learning_rate == 0.05
    finished = sum("failed" not in line for line in said if line.startswith("trial "))
    assert (evaluated.count("valid"), evaluated.count("test")) == (finished + 2, 2)
    assert "This metric chose the best of several trials" in said[-1]


def _failed(study: dict[str, Any]) -> int:
    return next(trial["number"] for trial in study["trials"] if trial["state"] == "failed")


def test_a_run_without_the_test_split_reads_none_of_its_rows(here: Path) -> None:
    data = write_tiny(here)
    part = data / "test" / "part-00000.parquet"
    table = pq.read_table(part)
    wrong = set_column(table, "click", [2.0] * table.num_rows)
    write_part(part, wrong, load_schema(data).fingerprint, GROUP_ROWS)
    (data / "_SUCCESS").write_text("")
    config = load_config(RunConfig, here / "tiny.toml")
    metrics = train(with_values(config, {"evaluation.test": False}), here / "without")
    assert "valid" in metrics
    assert "test" not in metrics
    with pytest.raises(DataError, match="click"):
        train(config, here / "with")
