"""Equal tuning of a comparison: what is trained, kept, gone on with and told."""

from __future__ import annotations

import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ple_rec.analysis.compare import compare as module
from ple_rec.analysis.compare.compare import ComparisonResult, run_comparison
from ple_rec.analysis.compare.estimate import Pace
from ple_rec.analysis.compare.shares import hold_share
from ple_rec.analysis.compare.tuning.sampler import BATCH_TRIALS, STARTUP_TRIALS
from ple_rec.analysis.compare.workers import Outcome
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.reports.compare.page import report_comparison
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import TEST_ROWS, hold_lock
from tests.analysis.compare.comparisons import comparison
from tests.analysis.compare.tuning.tuners import RATE, SPACE, Known, loss_of
from tests.messages import logged

ROOT = Path("runs/cmp")
VARIANTS = ("single_task", "ple", "mmoe")
SEEDS = [f"{variant}/seed-0" for variant in VARIANTS]
MANY = STARTUP_TRIALS + BATCH_TRIALS + 2  # a batch of TPE, and a part of the next one


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no page, which takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ple_rec.reports.compare.page.write_page", lambda _, root: root / "compare.html")
    return tmp_path


class Tuned:
    """Comparisons in the working directory.

    Args:
        here: It.
        monkeypatch: Of the test.
    """

    def __init__(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._here, self._monkeypatch = here, monkeypatch
        self.said: list[str] = []

    def run(
        self, worker: Known, trials: int = MANY, space: Any = SPACE, changes: Any = None, **how: Any
    ) -> ComparisonResult | None:
        """Run one of a seed each."""
        self._monkeypatch.setattr(module, "Worker", lambda **_: worker)
        self.said.clear()
        asked = comparison(self._here, seeds=1, tune={"trials": trials, "space": space}, **(changes or {}))
        with logged(self.said.append):
            root = how.pop("root", ROOT)
            directory = RunDirectory(root, root)
            return run_comparison(
                asked, self._here, how.pop("overrides", ()), directory, report=report_comparison, jobs=2, **how
            )

    def results(self, root: Path = ROOT) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((root / "compare.json").read_text())
        return found


@pytest.fixture
def tuned(here: Path, monkeypatch: pytest.MonkeyPatch) -> Tuned:
    return Tuned(here, monkeypatch)


def studies(root: Path = ROOT) -> dict[str, Any]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(root.glob("*/tune.json"))}


def test_every_variant_gets_as_many_trials_and_its_seeds_the_best(tuned: Tuned) -> None:
    worker = Known()
    done = tuned.run(worker)
    assert done is not None
    assert done.failed == []
    assert sorted(worker.trials) == sorted(f"{v}/trial-{n}" for v in VARIANTS for n in range(MANY))
    assert sorted(worker.trained) == sorted(SEEDS)
    for variant, study in studies().items():
        losses = [trial["loss"] for trial in study["trials"]]
        assert study["trials"][0]["values"] == {RATE: 0.001, "model.dropout": 0.0}  # as it is written
        assert study["best"] == losses.index(min(losses))
        best = study["trials"][study["best"]]["values"]
        config = load_config(RunConfig, ROOT / variant / "seed-0.toml")
        assert (config.dense_optimizer.learning_rate, config.model.dropout) == (best[RATE], best["model.dropout"])
        assert loss_of(config) == min(losses) < losses[0]
        told = tuned.results()["variants"][variant]
        assert told["tuned"] == best
        trials = {"number": MANY, "failed": 0, "first": losses[0], "best": min(losses), "values": losses}
        assert told["trials"] == trials
    assert tuned.results()["tune"]["metric"] == "loss"
    assert f"{3 * MANY} trials (3 variants x {MANY}) first" in tuned.said[1]
    assert "as written    best" in tuned.said[-1]
    assert "so it is too good for that trial" in tuned.said[-1]
    assert not list(ROOT.glob("*/tune/trial-*/checkpoints"))
    tuned.run(worker)
    assert len(worker.trials) == 3 * MANY
    assert sorted(worker.trained) == sorted(SEEDS)


def test_variants_that_tuning_leaves_as_they_are_take_the_runs_of_a_comparison_without(tuned: Tuned) -> None:
    theirs, worker = Path("runs/theirs"), Known()
    tuned.run(worker, trials=0, root=theirs)
    assert sorted(worker.trained) == sorted(SEEDS)
    worker = Known()
    tuned.run(worker, trials=1, reuse=[theirs])
    assert (len(worker.trials), worker.trained) == (3, [])
    assert (ROOT / "ple" / "seed-0" / TEST_ROWS).is_file()
    other, worker = Path("runs/other"), Known()
    tuned.run(worker, reuse=[theirs], root=other)  # whose trials find better values
    assert sorted(worker.trained) == sorted(SEEDS)


def test_neither_order_nor_interruption_nor_a_first_part_changes_the_trials(tuned: Tuned) -> None:
    alone = {"base": "tiny.toml", "overrides": ["model.variant=single_task", "model.bottom=[4]"]}
    changes = {"variants": {"single_task": alone}}

    def run(worker: Known, root: Path, **how: Any) -> Known:
        tuned.run(worker, root=root, changes=changes, **how)
        return worker

    run(Known(), Path("runs/whole"))
    whole = studies(Path("runs/whole"))
    assert len(whole["single_task"]["trials"]) == MANY
    parts = Path("runs/parts")
    with pytest.raises(KeyboardInterrupt):
        run(Known(stops_at=STARTUP_TRIALS + 2), parts)
    rest = run(Known(), parts)
    assert MANY - STARTUP_TRIALS - 2 <= len(rest.trials) <= MANY - STARTUP_TRIALS  # but for what was under way
    assert studies(parts) == whole
    more = Path("runs/more")
    run(Known(), more, trials=STARTUP_TRIALS + 1)
    assert len(run(Known(), more, overwrite=True).trials) == MANY - STARTUP_TRIALS - 1
    assert studies(more) == whole


def test_what_is_there_is_found_without_the_record(tuned: Tuned) -> None:
    tuned.run(Known(), trials=3)
    before = studies()
    (ROOT / "ple" / "tune.json").write_text("{")
    (ROOT / "mmoe" / "tune.json").unlink()
    shutil.rmtree(ROOT / "mmoe" / "seed-0")
    shutil.rmtree(ROOT / "ple" / "seed-0")
    tuned.run(again := Known(), trials=3)
    assert (again.trials, sorted(again.trained), studies()) == ([], ["mmoe/seed-0", "ple/seed-0"], before)


def test_a_trial_that_fails_counts_and_is_told(tuned: Tuned) -> None:
    failing = {f"ple/trial-{n}": Outcome(4, "step 3: loss nan") for n in (0, 2)}
    worker = Known(failing | {f"mmoe/trial-{n}": Outcome(137, "killed") for n in range(4)})
    done = tuned.run(worker, trials=4)
    assert done is not None
    assert len(worker.trials) == 12
    assert any("ple, trial 2: failed: step 3: loss nan" in line for line in tuned.said)
    assert (ROOT / "ple/tune/trial-2.failed").read_text() == "step 3: loss nan\n"
    ple, mmoe = (tuned.results()["variants"][name] for name in ("ple", "mmoe"))
    assert (ple["trials"]["number"], ple["trials"]["failed"], ple["trials"]["first"]) == (4, 2, None)
    assert ple["trials"]["values"][2] is None
    assert studies()["ple"]["trials"][2]["state"] == "failed"
    assert mmoe["tuned"] == studies()["mmoe"]["trials"][0]["values"]  # as written, since there is nothing to choose
    tuned.run(again := Known(), trials=4)
    assert again.trials == []


def test_a_trial_that_is_tried_again_leaves_those_as_they_are_that_were_asked_after_it(tuned: Tuned) -> None:
    tuned.run(Known({"ple/trial-3": Outcome(137, "killed")}), trials=STARTUP_TRIALS + 1)
    before = studies()["ple"]["trials"]
    (ROOT / "ple/tune/trial-3.failed").unlink()
    tuned.run(again := Known(), trials=STARTUP_TRIALS + 2, overwrite=True)
    assert sorted(again.trials) == sorted(["ple/trial-3", *(f"{v}/trial-{STARTUP_TRIALS + 1}" for v in VARIANTS)])
    after = studies()["ple"]["trials"]
    assert [trial["values"] for trial in after[: STARTUP_TRIALS + 1]] == [trial["values"] for trial in before]
    assert after[3]["state"] == "finished"


class Late(Known):
    """Is killed after its results are written."""

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        outcome = super().run(config, run_dir, log)
        return Outcome(137, "killed") if run_dir.name == "trial-1" else outcome


def test_a_trial_that_was_killed_with_its_results_written_counts_with_them(tuned: Tuned) -> None:
    tuned.run(Late(), trials=2)
    assert [trial["state"] for study in studies().values() for trial in study["trials"]] == ["finished"] * 6
    assert not list(ROOT.glob("*/tune/trial-*.failed"))


def test_a_variant_that_another_process_tunes_is_left_to_it(tuned: Tuned) -> None:
    worker = Known()
    with hold_lock(ROOT / "ple/tune"), pytest.raises(UserError, match=r"ple/tune: in use by process .*tunes a variant"):
        tuned.run(worker, trials=2)
    assert worker.trials == []


def test_a_trial_that_was_asked_to_stop_goes_on_with_the_next_call(tuned: Tuned) -> None:
    done = tuned.run(worker := Known({"ple/trial-1": Outcome(75, "saved")}), trials=3)
    assert done is not None
    assert (done.failed, done.stopped) == ([], ["ple, trial 1"])
    assert sorted(worker.trained) == ["mmoe/seed-0", "single_task/seed-0"]
    assert any(line == "asked to stop (ple, trial 1): 1 trial(s) are left for the next call" for line in tuned.said)
    assert (tuned.results()["missing"], tuned.results()["variants"]["ple"]["tuned"]) == (1, None)
    tuned.run(again := Known(), trials=3)
    assert (again.trials, again.trained) == (["ple/trial-1"], ["ple/seed-0"])


def test_no_trial_is_started_when_the_time_is_up(tuned: Tuned) -> None:
    tuned.run(worker := Known(), deadline=time.monotonic() - 1)
    assert worker.trials == worker.trained == []
    assert tuned.results()["missing"] == 3


def test_another_space_or_configuration_is_refused_or_starts_anew(tuned: Tuned) -> None:
    tuned.run(Known(), trials=2)
    fewer = {RATE: SPACE[RATE]}
    with pytest.raises(UserError, match=r"single_task/tune.json: holds trials of another space"):
        tuned.run(Known(), trials=2, space=fewer)
    with pytest.raises(
        UserError, match=r"trial-0: holds a finished run of another .* \(train.report_every was 100, is 7"
    ):
        tuned.run(Known(), trials=2, overrides=["train.report_every=7"])
    with pytest.raises(
        UserError, match=r"trial 0 has .* model.dropout = 0.0; the configuration has .* model.dropout = 0.1"
    ):
        tuned.run(Known(), trials=2, overrides=["model.dropout=0.1"])
    tuned.run(worker := Known(), trials=2, space=fewer, overwrite=True)
    assert len(worker.trials) == 6
    assert tuned.results()["variants"]["ple"]["tuned"].keys() == {RATE}


def test_more_trials_may_not_overtake_runs_that_are_there_unasked(tuned: Tuned) -> None:
    tuned.run(Known(), trials=2)
    with pytest.raises(UserError, match=r"seed-0: holds a run, and 2 of the 4 trials of single_task have not ended"):
        tuned.run(Known(), trials=4)
    before = {variant: study["best"] for variant, study in studies().items()}
    tuned.run(worker := Known(), trials=4, overwrite=True)
    assert len(worker.trials) == 6
    moved = [variant for variant, study in studies().items() if study["best"] != before[variant]]
    assert sorted(worker.trained) == [f"{variant}/seed-0" for variant in moved]
    assert moved  # else this tells nothing
    tuned.run(fewer := Known(), trials=2, overwrite=True)  # the best of the first two, which are there
    assert (fewer.trials, sorted(fewer.trained)) == ([], sorted(worker.trained))


def test_a_host_trains_the_runs_of_the_variants_that_it_tunes(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hold_share", partial(hold_share, patience=0.0))
    tuned.run(first := Known(), trials=2, share=(0, 2))
    assert sorted(first.trained) == ["mmoe/seed-0", "single_task/seed-0"]
    assert {trial.split("/")[0] for trial in first.trials} == {"mmoe", "single_task"}
    assert tuned.results()["missing"] == 1
    tuned.run(second := Known(), trials=2, share=(1, 2))
    assert (second.trained, sorted(second.trials)) == (["ple/seed-0"], ["ple/trial-0", "ple/trial-1"])
    assert tuned.results()["missing"] == 0
    assert all(variant["trials"]["number"] == 2 for variant in tuned.results()["variants"].values())


class Overtaken(Known):
    """While its last trial ends, another host has begun with a run, whose last trial is not seen yet."""

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """See `Worker.run`."""
        theirs = ROOT / "ple/seed-0"
        theirs.mkdir(parents=True, exist_ok=True)  # by each of the jobs, which run at once
        (theirs / "metrics.json").write_text("{}")
        return super().run(config, run_dir, log)


def test_what_another_host_has_is_its_own_to_refuse(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hold_share", partial(hold_share, patience=0.0))
    tuned.run(first := Overtaken(), trials=2, share=(0, 2))
    assert sorted(first.trained) == ["mmoe/seed-0", "single_task/seed-0"]
    with pytest.raises(UserError, match=r"ple/seed-0: holds a run, and 2 of the 2 trials of ple have not ended"):
        tuned.run(Known(), trials=2, share=(1, 2))


def test_sizes_are_tuned_where_costs_differ_anyway(tuned: Tuned) -> None:
    tuned.run(Known(), trials=3, space=SPACE | {"model.tower.hidden": {"choices": [[4], [8], [32]]}})
    for variant, told in tuned.results()["variants"].items():
        config = load_config(RunConfig, ROOT / variant / "seed-0.toml")
        assert list(config.model.tower.hidden) == told["tuned"]["model.tower.hidden"]
    costs = {variant: told["cost"]["flops_per_sample"] for variant, told in tuned.results()["variants"].items()}
    assert "1,360" not in f"{costs['single_task']:,}"  # which it costs as it is written


def test_a_dry_run_counts_trials_and_leaves_nothing(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_paces", lambda *_: [Pace("ple", 1000, start=2.0, sample=0.0, rest=1.0)])
    assert tuned.run(worker := Known(), dry_run=True) is None
    assert f"{3 * MANY} trials (3 variants x {MANY}) first, on the validation split: 0 ended" in tuned.said[-3]
    assert tuned.said[-1].endswith(", if the machine stays as busy as it is now")
    assert worker.trials == []
    assert not ROOT.exists()


def test_a_comparison_without_trials_tells_of_none(tuned: Tuned) -> None:
    tuned.run(worker := Known(), trials=0)
    assert worker.trials == []
    assert "tune" not in tuned.results()
    assert "tuned" not in tuned.results()["variants"]["ple"]
