"""docs/api.md: its cells run one after the other in one process and find what the page says; its tables are whole."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import ple_rec
from data_prep.transforms.resolve import expression_problems
from ple_rec.cli import main
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from tests.api.promise import OBJECTS, members

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
CELLS = re.findall(r"^```python(?P<slow> slow)?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, no_charts: None) -> tuple[Path, dict[str, Any]]:
    """The working directory and the names of a notebook in which the quick cells have run."""
    here, names = tmp_path_factory.mktemp("note book"), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for slow, cell in CELLS:
            if not slow:
                exec(compile(cell, "docs/api.md", "exec"), names)
    return here, names


def test_the_cells_find_what_the_page_says(
    notebook: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, names = notebook
    monkeypatch.chdir(here)
    assert "`auc` is about .74" in PAGE
    assert names["auc"] == pytest.approx(0.74, abs=0.02)
    assert "`median_error` is about .17" in PAGE
    assert names["median_error"] == pytest.approx(0.17, abs=0.02)
    assert names["loss"]["valid"].iloc[1:].notna().all()  # else a line between evaluations is not drawn
    assert all(int(video[1:]) % 4 == 3 for video, _ in names["neighbours"]("v7"))
    (shown,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    first, *rows = shown.splitlines()
    assert first.split() == list(names["predictions"].columns)
    for line, row in zip(rows, names["predictions"].itertuples(), strict=False):
        _, user, video, *values = line.split()
        assert (user, video) == (row.user_id, row.video_id)
        assert [float(value) for value in values] == pytest.approx([row.click, row.completion, row.score], abs=0.05)
    assert names["wide"].path == Path("runs/views-wide").absolute()
    assert names["wide"].config.embeddings.dim == 16
    assert sorted(path.name for path in Path("runs").iterdir()) == ["views", "views-wide"]


@pytest.mark.slow
def test_the_slow_cells_run(notebook: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    here, names = notebook
    monkeypatch.chdir(here)
    (command,) = re.findall(r"^    !ple-rec (.*)$", PAGE, re.MULTILINE)
    assert main(command.split()) == 0
    for slow, cell in CELLS:
        if slow:
            exec(compile(cell, "docs/api.md", "exec"), names)
    assert names["two"].status == "finished"
    assert ple_rec.load_run("mine").status == "finished"
    assert (here / "runs" / "compare" / "views" / "compare.html").is_file()


def test_changes_for_other_logs_can_be_written_so(notebook: tuple[Path, dict[str, Any]]) -> None:
    _, names = notebook
    below = PAGE.partition("### Where your log is another")[2].partition("\n## ")[0]
    found = re.findall(r"`(\{.*?\}|\"\w+\": \{.*?\})`", below)
    assert len(found) == 7
    for text in found:
        config = dict(names["views"])
        if text.startswith('"'):
            config |= ast.literal_eval(f"{{{text}}}")
        else:
            entry = ast.literal_eval(text)
            key = "tasks" if "label" in entry else "sparse"
            config[key] = [*(each for each in config[key] if each["name"] != entry["name"]), entry]
        load_config(PrepConfig, config, more_problems=expression_problems)


def test_the_tables_name_all_there_is() -> None:
    for name in ple_rec.__all__:
        assert f"`{name}" in PAGE, name
    for name in OBJECTS:
        (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", PAGE, re.MULTILINE)
        named = set(re.findall(r"`(\w+)[(`]", row))
        assert named == {member for member in members(getattr(ple_rec, name)) if not member.startswith("_")}, name
