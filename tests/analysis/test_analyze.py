"""`ple-rec analyze`: its files, what it prints, gates by sub-population against a direct average, and refusals."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ple_rec.analysis.analyze import analyze
from ple_rec.analysis.correlation import label_correlations
from ple_rec.analysis.result import Analysis
from ple_rec.analysis.utilisation import jensen_shannon
from ple_rec.cli import main
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.reports.analysis.page import analysis_page
from ple_rec.reports.analysis.text import format_analysis
from ple_rec.training.preflight import load_run_config
from ple_rec.training.trained import load_trained_weights, open_trained_run, single_process_config
from tests.analysis.trained import train_tiny
from tests.data.oracle import rows_of

HARD = {"variant": "hard_sharing", "bottom": [8]}
ONE_STEP = {"steps": 1}


@pytest.fixture(scope="module")
def analysis(tiny_run: Path) -> Analysis:
    return analyze(tiny_run, by=["tab"], batches=3)


def test_every_value_has_the_mean_gates_of_its_rows(tiny_run: Path, analysis: Analysis) -> None:
    with open_trained_run(load_run_config(tiny_run), tiny_run, "best") as job, torch.no_grad():
        load_trained_weights(job, tiny_run, "best")
        job.model.eval()
        with closing(job.evaluation_loader("test").epoch(0)) as batches:
            levels = [[a_BOE[: batch.rows].double() for a_BOE in job.model(batch)[1]] for batch in batches]
        a_NOE = [torch.cat(parts) for parts in zip(*levels, strict=True)]
        legends = job.gate_labels
    tabs = np.array([str(row["tab"]) for row in rows_of(DatasetDirectory(tiny_run.parent / "data"), "test")])
    users, found = analysis.sub_populations
    assert (users.column, found.column) == ("user", "tab")
    names = [str(value.entry["value"]) for value in found.values]
    assert names == ["auto", "click", "None"]
    assert found.values[2].entry["missing"]
    assert [value.rows for value in found.values] == [int((tabs == name).sum()) for name in names]
    for value, name in zip(found.values, names, strict=True):
        assert [(gate.level, gate.output) for gate in value.gates][-2:] == [(2, "click"), (2, "watch")]
        for gate in value.gates:
            legend, weights = legends[gate.level - 1], a_NOE[gate.level - 1].numpy()
            o, read = legend.outputs.index(gate.output), [legend.experts.index(name) for name in gate.experts]
            assert gate.mean == pytest.approx(weights[tabs == name][:, o][:, read].mean(0), abs=1e-6)
            assert gate.whole == pytest.approx(weights[:, o][:, read].mean(0), abs=1e-6)
            assert gate.distance == jensen_shannon(gate.mean, gate.whole)


def test_conflict_is_told_at_every_checkpoint_that_is_kept(analysis: Analysis) -> None:
    assert [at.step for at in analysis.steps] == [2, 4, 6]
    assert [at.best for at in analysis.steps] == [f"step-{at.step}" == analysis.checkpoint for at in analysis.steps]
    cosines = [at.conflicts[0].parameters.mean for at in analysis.steps]
    assert all(a != b for a, b in pairwise(cosines))  # of other weights, on the same batches


def test_correlation_is_over_the_rows_in_both_spaces(tiny_run: Path, analysis: Analysis) -> None:
    rows = [row for row in rows_of(DatasetDirectory(tiny_run.parent / "data"), "test") if row["watched"]]
    (found,) = analysis.correlations
    assert (found.tasks, found.rows) == (("click", "watch"), len(rows))
    assert {row["click"] for row in rows} == {1}  # watched where it was clicked: nothing varies
    assert found.value is None


def test_correlation_of_known_labels() -> None:
    a = np.array([0, 0, 1, 1, 1, 0, 1, 0], dtype=np.float32)
    labels = np.stack([a, 1 - a, np.ones(8), np.array([0, 1, 1, 1, 1, 0, 0, 0])], axis=1)
    found = {each.tasks: each.value for each in label_correlations("abcd", labels, np.ones_like(labels))}
    assert found["a", "b"] == pytest.approx(-1)
    assert found["a", "c"] is None
    assert found["a", "d"] == pytest.approx((3 * 3 - 1 * 1) / 16)  # phi of the table ((3, 1), (1, 3))
    (nothing,) = label_correlations("ab", labels[:, :2], np.zeros((8, 2)))
    assert (nothing.rows, nothing.value) == (0, None)


def test_the_verb_writes_three_files_and_prints_tables(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "runs" / "tiny"
    shutil.copytree(tiny_run, here)
    assert main(["analyze", "tiny", "--by", "tab", "--batches", "2"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("analysis: runs/tiny/analysis.html\n")
    assert re.search(r"^click / watch +- +-?\d\.\d{3} \+- \d\.\d{3} +\d+ %", out, re.MULTILINE)
    assert re.search(r"^auto +\d+\*? +level \d, \w+ +0\.\d{3}$", out, re.MULTILINE)
    record = json.loads((here / "analysis.json").read_text())
    assert {"utilisation", "gradient_conflict", "label_correlations", "sub_populations"} < set(record)
    assert [column["column"] for column in record["sub_populations"]] == ["user", "tab"]
    with np.load(here / "test_rows.npz") as rows:
        assert rows["scores"].shape == (101, 2)
    page = (here / "analysis.html").read_text()
    assert page.count("<svg") == 5  # a gate each
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    for heading in ("Expert utilisation", "What tasks share", "Gradient conflict", "Label correlation", "By tab"):
        assert heading in page
    assert main(["analyze", str(here), "--json", "--batches", "1"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [column["column"] for column in shown["sub_populations"]] == ["user"]  # of evaluation.slices


def test_refusals_name_what_was_meant(tiny_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refused(*argv: str) -> str:
        assert main(["analyze", *argv]) == 2
        return capsys.readouterr().err

    assert "--by: got 'tabb'; " in (message := refused(str(tiny_run), "--by", "tabb"))
    assert "Fix: did you mean 'tab'?" in message
    assert "only data.path, " in refused(str(tiny_run), "--set", "train.steps=3")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(tiny_run, unfinished)
    (unfinished / "metrics.json").unlink()
    message = refused(str(unfinished))
    assert f"{unfinished}: interrupted at step 6; only a run that has finished and been evaluated" in message
    assert f"Fix: `ple-rec train --resume --run-dir {unfinished}`" in message
    assert "no such run" in refused(str(tmp_path / "none"))
    metrics = json.loads((tiny_run / "metrics.json").read_text())
    shutil.copytree(tiny_run, tmp_path / "moved")
    (tmp_path / "moved" / "metrics.json").write_text(json.dumps(metrics | {"dataset_fingerprint": "other"}))
    assert "are of dataset other, and an analysis of them needs the same one" in refused(str(tmp_path / "moved"))


@pytest.mark.parametrize("tasks", [["click", "watch"], ["click"]])
def test_a_model_without_gates_gets_the_rest(tiny_run: Path, tasks: list[str]) -> None:
    hard = train_tiny(
        tiny_run.parent, {"tasks": [{"name": name} for name in tasks], "train": ONE_STEP}, f"hard-{len(tasks)}", HARD
    )
    found = analyze(hard, by=["tab"], batches=1)
    text, page = format_analysis(found, 80), analysis_page(found)
    assert "hard_sharing has no gates here" in text
    assert "hard_sharing has no gates here" in page
    assert (len(found.correlations), bool(found.steps)) == ((1, True) if len(tasks) > 1 else (0, False))
    assert ("A single task: there are no pairs to compare." in text) == (len(tasks) == 1)


def test_gradients_are_those_of_the_batches_of_all_ranks(tiny_run: Path) -> None:
    config = load_run_config(tiny_run, ["train.batch_size=", "train.batch_size_per_rank=12"])
    assert single_process_config(config, {"world_size": 2}).train.batch_size == 24
    assert single_process_config(load_run_config(tiny_run), {"world_size": 2}).train.batch_size == 24
    few = analyze(tiny_run, by=[], batches=500)
    assert few.gradient_batches == 9  # an epoch has no more
