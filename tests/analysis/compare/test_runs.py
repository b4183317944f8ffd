"""A comparison's runs: trained once, gone on with, reported where they fail; shares; the time that is up."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ple_rec.analysis.compare import compare as module
from ple_rec.analysis.compare.compare import ComparisonResult, run_comparison
from ple_rec.analysis.compare.estimate import Pace
from ple_rec.analysis.compare.shares import hold_share
from ple_rec.analysis.compare.workers import Outcome
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.reports.compare.page import report_comparison
from ple_rec.runs.checkpoints import own_checkpoint_place
from ple_rec.runs.directory import RunDirectory
from tests.analysis.compare.comparisons import MMOE, Trainer, comparison
from tests.messages import logged

ALL = [f"{variant}/seed-{seed}" for seed in (0, 1) for variant in ("single_task", "ple", "mmoe")]
ROOT = Path("runs/cmp")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(
    here: Path, monkeypatch: pytest.MonkeyPatch, trainer: Trainer, **how: Any
) -> tuple[ComparisonResult | None, list[str], dict[str, Any]]:
    """Result, what was said, and compare.json."""
    monkeypatch.setattr(module, "Worker", lambda **_: trainer)
    said: list[str] = []
    changes = how.pop("changes", {})
    with logged(said.append):
        done = run_comparison(
            comparison(here, **changes),
            here,
            how.pop("overrides", ()),
            RunDirectory(ROOT, ROOT),
            report=report_comparison,
            jobs=1,
            **how,
        )
    file = ROOT / "compare.json"
    return done, said, json.loads(file.read_text()) if file.is_file() else {}


def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no page from now on: its figures take longer than all else."""
    monkeypatch.setattr("ple_rec.reports.compare.page.write_page", lambda _, root: root / "compare.html")


def test_every_run_is_trained_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    done, said, results = compared(here, monkeypatch, trainer)
    assert trainer.trained == ALL
    assert done is not None
    assert done.failed == []
    assert any(line.startswith("run 6 of 6: mmoe, seed 1: click auc 0.6910") for line in said)
    ple = results["variants"]["ple"]["tasks"]["click"]
    assert ple["values"] == {"0": 0.72, "1": 0.721}
    assert ple["gain"]["mean"] == pytest.approx(0.02)
    assert ple["gain"]["row_interval"] is not None
    assert results["variants"]["single_task"]["tasks"]["click"]["gain"] is None
    assert {"compare.html", "compare.toml", "figures"} <= {path.name for path in ROOT.iterdir()}
    without_page(monkeypatch)
    assert compared(here, monkeypatch, trainer)[1][-1].endswith(f"report: {ROOT / 'compare.html'}")
    assert trainer.trained == ALL
    compared(here, monkeypatch, trainer, changes={"seeds": 3})
    assert trainer.trained == [*ALL, *(f"{variant}/seed-2" for variant in ("single_task", "ple", "mmoe"))]


def test_a_run_that_fails_is_marked_and_tried_anew(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Trainer({"ple/seed-1": Outcome(4, "step 3: loss nan")})
    done, said, results = compared(here, monkeypatch, failing)
    assert done is not None
    assert done.failed == ["ple seed 1"]
    assert failing.trained == ALL
    assert any("ple, seed 1: failed: step 3: loss nan" in line for line in said)
    assert results["variants"]["ple"]["failed"] == {"1": "step 3: loss nan"}
    assert results["variants"]["ple"]["tasks"]["click"]["values"] == {"0": 0.72}
    assert "ple, seed 1, failed: step 3: loss nan" in (ROOT / "compare.html").read_text()
    without_page(monkeypatch)
    again = Trainer()
    done, _, results = compared(here, monkeypatch, again)
    assert again.trained == ["ple/seed-1"]
    assert results["variants"]["ple"]["failed"] == {}


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    without_page(monkeypatch)


@pytest.mark.usefixtures("no_page")
def test_a_run_that_was_asked_to_stop_is_left_for_the_next_call(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, said, results = compared(here, monkeypatch, Trainer({"ple/seed-0": Outcome(75, "saved")}))
    assert done is not None
    assert (done.failed, done.stopped) == ([], ["ple, seed 0"])
    assert (results["missing"], results["variants"]["ple"]["failed"]) == (1, {})
    assert "asked to stop (ple, seed 0): 1 run(s) are left for the next call" in said
    assert not (ROOT / "ple/seed-0.failed").exists()
    compared(here, monkeypatch, again := Trainer())
    assert again.trained == ["ple/seed-0"]


@pytest.mark.usefixtures("no_page")
def test_shares_add_up_and_the_last_has_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Trainer(), Trainer()
    monkeypatch.setattr(module, "hold_share", partial(hold_share, patience=0.0))
    _, said, results = compared(here, monkeypatch, first, share=(0, 2))
    assert results["missing"] == 3
    assert any(line.startswith("share 1/2 wrote nothing for 0 s") for line in said)
    _, _, results = compared(here, monkeypatch, second, share=(1, 2))
    assert results["missing"] == 0
    assert sorted(first.trained + second.trained) == sorted(ALL)


@pytest.mark.usefixtures("no_page")
def test_a_run_of_other_settings_of_another_share_is_missing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hold_share", partial(hold_share, patience=0.0))
    compared(here, monkeypatch, Trainer(), share=(1, 2), overrides=["train.epochs=2"])
    first = Trainer()
    done, _, results = compared(here, monkeypatch, first, share=(0, 2))
    assert done is not None
    assert (len(first.trained), done.failed, results["missing"]) == (3, [], 3)
    with pytest.raises(UserError, match=r"holds a finished run of another configuration"):
        compared(here, monkeypatch, Trainer(), share=(1, 2))


@pytest.mark.usefixtures("no_page")
def test_files_of_the_whole_comparison_are_written_by_one_share_at_a_time(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlocked: list[str] = []

    def watched(write: Callable[[Path, Any], None]) -> Callable[[Path, Any], None]:
        def writes(path: Path, content: Any) -> None:
            with (ROOT / module.LOCK).open("w") as lock, suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unlocked.append(path.name)
            write(path, content)

        return writes

    for name in ("write_text", "write_json"):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    compared(here, monkeypatch, Trainer(), changes={"seeds": 1})
    assert unlocked == []


@pytest.mark.usefixtures("no_page")
def test_some_variants_alone_keep_the_cost_of_the_reference(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    wide = {"base": "tiny.toml", "overrides": ["model.levels[0].expert_hidden=[64]"]}
    mmoe = {"base": "tiny.toml", "overrides": list(MMOE)}
    changes = {"match": "flops", "seeds": 1, "variants": {"ple": wide, "mmoe": mmoe}}
    _, said, results = compared(here, monkeypatch, trainer, trained_variants=["mmoe"], changes=changes)
    assert trainer.trained == ["single_task/seed-0", "mmoe/seed-0"]
    assert "single_task is trained too, since it is the baseline of all gains" in said[0]
    assert results["reference"] == "ple"
    assert min(results["variants"]["mmoe"]["sizes"]["model.expert_hidden"]) > 4


@pytest.mark.usefixtures("no_page")
def test_no_run_is_started_when_the_time_is_up(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    _, said, results = compared(here, monkeypatch, trainer, deadline=time.monotonic() - 1)
    assert trainer.trained == []
    assert results["missing"] == len(ALL)
    assert "the time is up: 6 run(s) are left for the next call" in said


def test_a_dry_run_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    monkeypatch.setattr(module, "measure_paces", lambda *_: [Pace("ple", 1000, start=2.0, sample=0.0, rest=1.0)])
    done, said, _ = compared(here, monkeypatch, trainer, dry_run=True)
    assert (done, trainer.trained, ROOT.exists()) == (None, [], False)
    assert "6 runs (3 variants x 2 seeds) in runs/cmp: 0 finished, 6 to train here" in said[-3]
    assert said[-2:] == [
        "1 short run(s) estimate the time ...",
        "estimated time: 9.5 s to 12.0 s, if the machine stays as busy as it is now",
    ]


@pytest.mark.usefixtures("no_page")
def test_a_run_of_other_settings_is_removed_with_its_checkpoints(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = f"checkpoint.path={here}/ck/{{run}}"
    compared(here, monkeypatch, Trainer(), overrides=[outside])
    for name in ALL:
        config = load_config(RunConfig, ROOT / name / "config.toml")
        own_checkpoint_place(config, RunDirectory(ROOT / name, ROOT / name))
        step = here / "ck" / name.replace("/", "-") / "step-1"
        step.mkdir()
        (step / "manifest.json").write_text("{}")
    trainer = Trainer()
    compared(here, monkeypatch, trainer, overrides=[outside, "train.epochs=2"], overwrite=True)
    assert trainer.trained == ALL
    left = {path.relative_to(here / "ck").as_posix() for path in (here / "ck").rglob("*") if path.is_file()}
    assert left == {f"{name.replace('/', '-')}/run.json" for name in ALL}
    (here / "ck/ple-seed-1/run.json").write_text('{"run": "/another"}')
    with pytest.raises(UserError, match=r"ck/ple-seed-1: holds the checkpoints of /another"):
        compared(here, monkeypatch, trainer, overrides=[outside], overwrite=True)


@pytest.mark.usefixtures("no_page")
def test_runs_of_other_settings_are_refused_or_removed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(here, monkeypatch, Trainer())
    trainer = Trainer()
    with pytest.raises(UserError, match=r"holds a finished run of another configuration \(train.epochs was 1, is 2\)"):
        compared(here, monkeypatch, trainer, overrides=["train.epochs=2"])
    assert trainer.trained == []
    compared(here, monkeypatch, trainer, overrides=["train.epochs=2"], overwrite=True)
    assert trainer.trained == ALL
