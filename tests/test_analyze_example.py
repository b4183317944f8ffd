"""docs/analyze.md: its commands run as they stand, and the example's files are there."""

from __future__ import annotations

import json
import runpy
import shlex
from pathlib import Path

import pytest

from ple_rec.cli import main
from tests.test_readme import blocks


@pytest.mark.slow
def test_the_commands_of_the_page_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").symlink_to(repository / "docs")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks((repository / "docs" / "analyze.md").read_text())
    for command in block.commands:
        program, *words = shlex.split(command)
        if program == "python":
            runpy.run_path(words[0])
        else:
            assert program == "ple-rec"
            assert main(words) == 0
    assert capsys.readouterr().out.endswith("analysis: runs/own/analysis.html\n")
    record = json.loads(Path("runs/own/analysis.json").read_text())
    assert record["label_correlations"][0]["value"] is None  # watch counts where click is 1
    assert record["sub_populations"][0]["column"] == "video"
    assert Path("runs/own/test_rows.npz").is_file()
