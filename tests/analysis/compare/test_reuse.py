"""Runs that another comparison has finished: copied where all settings are the same, else trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ple_rec.analysis.compare import compare as module
from ple_rec.analysis.compare.compare import run_comparison
from ple_rec.analysis.compare.estimate import Pace
from ple_rec.analysis.compare.reuse import copy_runs
from ple_rec.analysis.compare.runs import VariantRun
from ple_rec.reports.compare.page import report_comparison
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import ANALYSIS_PAGE, LOCK, hold_lock
from tests.analysis.compare.comparisons import MMOE, Trainer, comparison, matrix
from tests.messages import logged

ALL = [f"{variant}/seed-{seed}" for seed in (0, 1) for variant in ("single_task", "ple", "mmoe")]
ROOT, THEIRS = Path("runs/cmp"), Path("runs/theirs")
Compare = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Trains a comparison, beside one that has been; the runs that are trained, and what is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ple_rec.reports.compare.page.write_page", lambda _, root: root / "compare.html")

    def run(root: Path = ROOT, reuse: Sequence[Path] = (), **how: Any) -> tuple[list[str], list[str]]:
        trainer, said = Trainer(), list[str]()
        monkeypatch.setattr(module, "Worker", lambda **_: trainer)
        monkeypatch.setattr(module, "measure_paces", lambda *_: [Pace("ple", 1000, start=0.0, sample=0.0, rest=0.0)])
        asked = comparison(tmp_path, **how.pop("changes", {}))
        with logged(said.append):
            run_comparison(
                asked, tmp_path, (), RunDirectory(root, root), report=report_comparison, jobs=1, reuse=reuse, **how
            )
        return trainer.trained, said

    assert run(THEIRS)[0] == ALL
    return run


def test_what_differs_is_trained(compare: Compare) -> None:
    mmoe = {"base": "tiny.toml", "overrides": [*MMOE, "model.dropout=0.3"]}
    changes = {"seeds": 3, "variants": {"ple": {"base": "tiny.toml"}, "mmoe": mmoe}}
    needless = "4 run(s) need no training: runs/theirs has finished them with the same settings"
    trained, said = compare(reuse=[THEIRS], changes=changes, dry_run=True)
    assert (trained, ROOT.exists()) == ([], False)
    assert needless in said
    trained, said = compare(reuse=[THEIRS], changes=changes)
    assert trained == ["mmoe/seed-0", "mmoe/seed-1", "single_task/seed-2", "ple/seed-2", "mmoe/seed-2"]
    assert needless in said
    assert any("9 runs (3 variants x 3 seeds) in runs/cmp: 4 finished, 5 to train here" in line for line in said)
    results = json.loads((ROOT / "compare.json").read_text())
    assert results["missing"] == 0
    assert results["variants"]["ple"]["tasks"]["click"]["values"] == {"0": 0.72, "1": 0.721, "2": 0.722}


def test_a_run_is_copied_whole_over_what_is_left_of_one(compare: Compare) -> None:
    theirs, ours = THEIRS / "ple" / "seed-0", ROOT / "ple" / "seed-0"
    (theirs / LOCK).write_text("of a process that is gone")
    (theirs.with_name("seed-0.log")).write_text("as it was trained there")
    for left in (ours, ours.with_name(".seed-0.part")):  # of a run, and of a copy, that were killed
        left.mkdir(parents=True)
        (left / "train.jsonl").touch()
    ours.with_name("seed-0.failed").write_text("loss nan")
    assert compare(reuse=[THEIRS])[0] == []
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()} - {LOCK}
    assert ours.with_name("seed-0.log").read_text() == "as it was trained there"
    assert ours.with_name("seed-0.toml").read_text() == theirs.with_name("seed-0.toml").read_text()
    assert not ours.with_name("seed-0.failed").exists()
    assert not list(ROOT.rglob("*.part"))


def test_the_first_comparison_that_has_a_run_gives_it(compare: Compare) -> None:
    other = Path("runs/other")
    compare(other, changes={"seeds": 1})
    (other / "ple" / "seed-0" / ANALYSIS_PAGE).write_text("of the other")
    trained, said = compare(reuse=[other, THEIRS])
    assert trained == []
    assert (ROOT / "ple" / "seed-0" / ANALYSIS_PAGE).read_text() == "of the other"
    assert [line.split(":")[0] for line in said if "need no training" in line] == ["3 run(s) need no training"] * 2


def test_a_run_that_is_still_analysed_or_cannot_be_read_is_trained(compare: Compare) -> None:
    (THEIRS / "ple" / "seed-0" / ANALYSIS_PAGE).unlink()  # it is written last
    (THEIRS / "mmoe" / "seed-1" / "gone").symlink_to("nowhere")
    trained, said = compare(reuse=[THEIRS])
    assert trained == ["ple/seed-0", "mmoe/seed-1"]
    assert any(
        line.startswith("runs/theirs/mmoe/seed-1 is not copied but trained again: ")
        and line.endswith("No such file or directory: 'runs/theirs/mmoe/seed-1/gone'")
        for line in said
    )
    assert not list(ROOT.rglob("*.part"))


def test_a_run_that_another_process_trains_is_left_to_it(compare: Compare, tmp_path: Path) -> None:
    del compare
    run = VariantRun("ple", 0, matrix(tmp_path).variants["ple"].config, ROOT / "ple" / "seed-0")
    said: list[str] = []
    with hold_lock(run.directory), logged(said.append):
        assert copy_runs({THEIRS: [run]}) == {}
        assert [path.name for path in run.directory.iterdir()] == [LOCK]
    assert "in use by process" in said[0]
    assert copy_runs({THEIRS: [run]}) == {THEIRS: [run]}
