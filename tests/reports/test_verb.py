"""`ple-rec report`: the page of a run that did not come to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.cli import main


def test_a_run_that_was_stopped_gets_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "stopped"
    run.mkdir(parents=True)
    (run / "config.toml").write_text('name = "stopped"\n')
    record = '{"split": "train", "step": 2, "loss": 0.5, "tasks": {"click": {"loss": 0.5, "weight": 1.0}}}\n'
    (run / "train.jsonl").write_text(record)
    assert main(["report", "stopped"]) == 0
    assert capsys.readouterr().out == "report: runs/stopped/report.html\n"
    page = (run / "report.html").read_text()
    assert "metrics.json is missing: the run was interrupted or still goes on" in page
    assert main(["report", "nothing"]) == 2
    assert "nothing: no such run" in capsys.readouterr().err
