"""Jobs that bring further jobs: what is trained, what is left, and what the log tells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ple_rec.analysis.compare.runs import VariantRun, list_runs
from ple_rec.analysis.compare.scheduler import ScheduledRun, train_jobs
from ple_rec.analysis.compare.workers import Outcome, Worker, Workers
from tests.analysis.compare.comparisons import matrix
from tests.messages import logged


class Answers(Worker):
    """Gives each run directory its outcome, without training.

    Args:
        outcomes: Outcome by the name of the run directory; others end well.
    """

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        super().__init__(["false"])
        self._outcomes = outcomes
        self.trained: list[str] = []

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        assert config.is_file()
        self.trained.append(run_dir.name)
        return self._outcomes.get(run_dir.name, Outcome(0, seconds=60.0))


class Chain:
    """Jobs of one variant, each of which brings the next."""

    def __init__(self, run: VariantRun, count: int) -> None:
        self._run, self._left = run, count

    @property
    def later(self) -> list[str]:
        return [self._run.variant] * self._left

    def jobs(self) -> list[ScheduledRun]:
        if not self._left:
            return []
        self._left -= 1
        name = f"{self._run.variant}-{self._left}"
        run = VariantRun(self._run.variant, 0, self._run.config, self._run.directory.with_name(name))
        return [ScheduledRun(run, name, self._end)]

    def _end(self, outcome: Outcome) -> tuple[str, Sequence[ScheduledRun]]:
        return outcome.message or "good", self.jobs()


@pytest.fixture
def chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Chain]:
    """Three jobs of PLE and three of MMoE."""
    monkeypatch.chdir(tmp_path)
    runs = {run.variant: run for run in list_runs(matrix(tmp_path), Path("runs/cmp"))}
    return [Chain(runs[variant], 3) for variant in ("ple", "mmoe")]


def train(chains: Sequence[Chain], worker: Answers, until: float | None = None) -> list[str]:
    """Train the chains, and return what was said."""
    said: list[str] = []
    with logged(said.append), Workers([worker]) as workers:
        first = [job for chain in chains for job in chain.jobs()]
        train_jobs("job", first, workers, until, lambda: [variant for chain in chains for variant in chain.later])
    return said


def test_a_job_that_ends_brings_the_next_and_all_are_counted_from_the_start(chains: list[Chain]) -> None:
    worker = Answers({"ple-1": Outcome(4, "loss nan")})
    said = train(chains, worker)
    assert sorted(worker.trained) == sorted(f"{v}-{n}" for v in ("ple", "mmoe") for n in range(3))
    assert [line.split(" (")[0].split(":")[0] for line in said] == [f"job {n} of 6" for n in range(1, 7)]
    assert said[0] == "job 1 of 6 (about 5 min 00 s to go): ple-2: good"
    assert sum(line.endswith(": ple-1: loss nan") for line in said) == 1


def test_a_job_that_was_asked_to_stop_has_not_ended_and_brings_none(chains: list[Chain]) -> None:
    worker = Answers({"ple-2": Outcome(75, "saved")})
    said = train(chains, worker)
    assert worker.trained == ["ple-2", "mmoe-2", "mmoe-1", "mmoe-0"]
    assert said[0] == "job 1 of 6 (about 2 min 00 s to go): mmoe-2: good"  # what PLE would bring does not count
    assert said[2:] == ["job 3 of 6: mmoe-0: good", "asked to stop (ple-2): 3 job(s) are left for the next call"]


def test_none_is_started_when_the_time_is_up(chains: list[Chain]) -> None:
    worker = Answers({})
    said = train(chains, worker, until=time.monotonic() - 1)
    assert (worker.trained, said) == ([], ["the time is up: 6 job(s) are left for the next call"])
