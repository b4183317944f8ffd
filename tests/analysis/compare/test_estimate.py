"""How long a comparison takes: bounds from the times of pilots, and pilots that are short runs of the real thing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from ple_rec.analysis.compare.compare import create_workers
from ple_rec.analysis.compare.estimate import Bounds, Pace, estimate_seconds, measure_paces, write_first_rows
from ple_rec.analysis.compare.one_run import train_one
from ple_rec.analysis.compare.work import Work, create_studies, read_work
from ple_rec.analysis.compare.workers import Outcome, Worker
from ple_rec.config.base import Split
from ple_rec.config.compare import TuneConfig
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.dataset import DatasetDirectory, read_row_group
from ple_rec.distributed import process_group
from ple_rec.errors import UserError
from ple_rec.reports.analysis.page import write_analysis
from ple_rec.runtime.cuda import MissingGpu
from tests.analysis.compare.comparisons import matrix
from tests.histories import write_histories

ROOT = Path("runs/cmp")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def work(here: Path, *overrides: str, trials: int = 0) -> Work:
    found = matrix(here, *overrides)
    space: Mapping[str, object] = {"dense_optimizer.learning_rate": {"low": 0.001, "high": 0.01}}
    tune = TuneConfig.model_validate({"trials": trials, "space": space})
    return read_work(found, create_studies(found, tune, ROOT), ROOT)


def pace(work: Work, variant: str, **times: float) -> Pace:
    flops = work.matrix.variants[variant].cost.flops_per_sample
    return Pace(variant, flops, **({"start": 0.0, "sample": 0.0, "rest": 0.0} | times))


def test_start_rest_and_page_are_counted(here: Path) -> None:
    six = work(here)  # three variants, two seeds
    assert len(six.own_runs) == 6
    resampled = 64 * 1000 * 2 * 6  # rows, resamples, tasks, runs

    def told(jobs: int, **times: float) -> Bounds:
        return estimate_seconds(six, jobs, [pace(six, "ple", **times), pace(six, "mmoe", **times)])

    assert told(1) == pytest.approx((5e-9 * resampled, 2e-8 * resampled))
    assert told(1, start=5.0) == pytest.approx((10, 10), abs=0.1)  # the program's own, and its workers'
    assert told(1, rest=4.0) == pytest.approx((6 * 3 + 4, 6 * 4 + 8), abs=0.1)
    assert told(2, rest=4.0) == pytest.approx((3 * 3 + 4, 3 * 4 + 8), abs=0.1)


def test_runs_without_their_gpu_are_refused_before_any_begins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "find_missing_gpu", lambda: MissingGpu("an old driver", "a rule", "a fix"))
    assert len(create_workers(work(here), 2, [None])) == 2
    on_gpus = work(here, "runtime.device=cuda")
    with pytest.raises(UserError, match=r'^runtime.device: got "cuda", but torch sees no GPU: an old driver; a rule'):
        create_workers(on_gpus, 2, [None])


def test_all_that_is_trained_and_evaluated_is_counted(here: Path) -> None:
    def told(*overrides: str) -> Bounds:
        one = work(here, *overrides)
        per_sample = [pace(one, name, sample=1.0) for name in one.matrix.variants]
        low, high = estimate_seconds(one, 1, per_sample)
        return Bounds(low / 6, high / 6)

    samples, valid, test, conflict = 256 * 2, 64, 64, 10 * 16 * 5 / 3
    low = samples + 2 * (valid / 3 + conflict) + 2 * test / 3 + conflict
    high = samples + 2 * (valid + conflict) + 2 * test + 2 * conflict
    assert told("train.epochs=2") == pytest.approx((low, high), rel=0.01)
    stopped = told("train.epochs=20", "early_stopping.patience=1")
    assert stopped.low == pytest.approx(low, rel=0.01)
    assert stopped.high > 5 * high


def test_another_variant_takes_between_as_long_and_as_its_flops_say(here: Path) -> None:
    six = work(here)
    alone = estimate_seconds(six, 1, [pace(six, "ple", sample=1.0)])
    dear = pace(six, "ple", sample=1.0)
    cheap = Pace(dear.variant, dear.flops * 4, 0.0, 1.0, 0.0)  # as if the one measured had four times the FLOPs
    found = estimate_seconds(six, 1, [cheap])
    assert found.low == pytest.approx(alone.low / 4, rel=0.01)
    assert found.high <= alone.high


def test_trials_come_before_the_runs(here: Path) -> None:
    tuned = work(here, trials=4)
    assert estimate_seconds(tuned, 1, [pace(tuned, "ple", rest=4.0)]).low == pytest.approx(12 * 2 + 6 * 3 + 4, abs=0.1)


class Here(Worker):
    """Trains in this process."""

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        begun = time.monotonic()
        train_one(load_config(RunConfig, config), run_dir, write_analysis)
        return Outcome(0, seconds=time.monotonic() - begun, start=0.5)


def test_a_pilot_is_a_short_run_of_the_real_thing(here: Path) -> None:
    found = matrix(here, "train.epochs=500", "watch.tensorboard=true", "early_stopping.patience=3")
    begun = time.monotonic()
    (told,) = measure_paces([found.variants["ple"]], [Here(["false"])], 2)
    took = time.monotonic() - begun
    assert (told.variant, told.flops) == ("ple", found.variants["ple"].cost.flops_per_sample)
    assert told.start == 0.5
    assert 0 < told.sample < 0.01
    assert 0.1 < told.rest < took
    assert not (here / "runs").exists()


def test_a_pilot_that_fails_says_why(here: Path) -> None:
    class Failing(Worker):
        def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
            return Outcome(3, "data/train: no column click")

    found = matrix(here)
    with pytest.raises(UserError, match=r"^a pilot of mmoe: failed: data/train: no column click"):
        measure_paces([found.variants["mmoe"]], [Failing(["false"])], 2)


def test_first_rows_are_a_dataset(here: Path) -> None:
    matrix(here)
    whole = DatasetDirectory(here / "data")
    cut = DatasetDirectory(write_first_rows(whole, here / "cut", {"train": 20, "valid": 7, "test": 10_000}))
    rows = {split: sum(group.rows for group in cut.row_groups(split, [])) for split in ("train", "valid", "test")}
    assert rows == {"train": 20, "valid": 7, "test": whole.schema.splits["test"].rows}
    assert cut.schema.fingerprint == whole.schema.fingerprint
    assert cut.statistics() == whole.statistics()


def test_first_rows_have_the_events_of_histories(tmp_path: Path) -> None:
    write_histories(tmp_path / "whole")
    whole = DatasetDirectory(tmp_path / "whole")
    rows: dict[Split, int] = {"train": 20, "valid": 7, "test": 7}
    cut = DatasetDirectory(write_first_rows(whole, tmp_path / "cut", rows))
    for folder in (whole, cut):
        folder.history_events["liked"].check()
    first, same = (
        read_row_group(each.row_groups("train", [])[0], each.select(drop=[], tasks=[])).histories[0]
        for each in (whole, cut)
    )
    assert first.end_N[: len(same.end_N)].tolist() == same.end_N.tolist()
