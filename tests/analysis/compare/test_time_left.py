"""The time that is left, which runs that have finished tell."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from ple_rec.analysis.compare.runs import list_runs
from ple_rec.analysis.compare.scheduler import train_runs
from ple_rec.analysis.compare.time_left import TimeLeft, makespan
from ple_rec.analysis.compare.workers import Outcome, Workers
from tests.analysis.compare.comparisons import Trainer, matrix
from tests.messages import logged


def test_runs_side_by_side_begin_when_a_place_is_free() -> None:
    assert makespan([3.0, 1.0, 1.0, 1.0, 2.0], 2) == 5.0
    assert makespan([3.0, 1.0], 4) == 3.0
    assert makespan([], 2) == 0.0


def test_what_runs_side_by_side_and_has_run_for_a_while_is_counted_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("ple_rec.analysis.compare.time_left.time.monotonic", lambda: clock)
    left = TimeLeft(jobs=2)
    waiting = {Future[Outcome](): variant for variant in ("a", "b", "a", "b", "a", "b")}
    first, second, *_ = waiting
    left.note_running(waiting)
    clock = 60.0
    del waiting[first]
    assert left.text(waiting) == ""
    left.note_ended("a", Outcome(4, "loss nan", seconds=1.0))  # which tells nothing of the others
    assert left.text(waiting) == ""
    left.note_ended("a", Outcome(0, seconds=60.0))
    assert left.text(waiting) == " (about 2 min 00 s to go)"  # b, which has run as long, is about to end
    clock = 120.0
    del waiting[second]
    left.note_ended("b", Outcome(0, seconds=120.0))
    # a ends now; b stands beside a and b, one after the other
    assert left.text(waiting) == " (about 3 min 00 s to go)"
    assert left.text({}, ["a", "a", "b"]) == " (about 3 min 00 s to go)"
    assert left.text({}) == ""


class Slow(Trainer):
    """Says that PLE takes ten minutes, and the others one."""

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        super().run(config, run_dir, log)
        return Outcome(0, seconds=600.0 if run_dir.parent.name == "ple" else 60.0)


def test_a_run_takes_as_long_as_those_of_its_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found, said = matrix(tmp_path), list[str]()
    with logged(said.append), Workers([Slow()]) as workers:
        train_runs(found.tasks, list_runs(found, Path("runs/cmp")), workers)
    assert [line.partition(": ")[0] for line in said] == [
        "run 1 of 6 (about 5 min 00 s to go)",
        "run 2 of 6 (about 22 min 00 s to go)",  # mmoe counts as the mean of the two
        "run 3 of 6 (about 12 min 00 s to go)",
        "run 4 of 6 (about 11 min 00 s to go)",
        "run 5 of 6 (about 1 min 00 s to go)",
        "run 6 of 6",
    ]
