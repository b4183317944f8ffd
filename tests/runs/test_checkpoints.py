"""Checkpoints that lie outside of the run directory: whose they are, and that nobody takes them for nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ple_rec.cli import main
from ple_rec.config.load import dump_toml, load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.runs.checkpoints import own_checkpoint_place, prepare_directory
from ple_rec.runs.directory import RunDirectory, hold_run
from ple_rec.runs.find import find_run, find_runs
from ple_rec.runs.layout import configured_checkpoint_place, holds_run
from ple_rec.runs.state import decide_action, inspect_directory
from tests.tiny import write_tiny
from tests.training.small import small_config

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_whose_checkpoints_lie_elsewhere_is_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "--config", "tiny.toml"]
    outside = ["--set", f"checkpoint.path={here}/ck/{{run}}"]
    assert main([*train, *outside]) == 0
    run_dir = here / "runs" / "tiny"
    assert configured_checkpoint_place(run_dir) == here / "ck" / "tiny"
    assert not (run_dir / "checkpoints").exists()
    (run_dir / "metrics.json").unlink()  # as of a run that was stopped
    assert holds_run(run_dir)
    capsys.readouterr()
    assert main(train) == 2  # whatever its configuration says of checkpoints
    assert capsys.readouterr().err.startswith("ple-rec: runs/tiny: already holds a run; ")

    # Its directory is gone: neither is it begun anew unasked, nor lost.
    shutil.rmtree(run_dir)
    assert main([*train, *outside]) == 2
    assert "already holds checkpoints of this run directory" in capsys.readouterr().err
    config = small_config(here / "data", {"checkpoint": {"path": f"{here}/ck/{{run}}"}})
    assert inspect_directory(config, run_dir).is_lost
    assert not inspect_directory(config, here / "runs" / "other").is_lost
    assert main([*train, *outside, "--resume"]) == 0
    assert "goes on from" in capsys.readouterr().out
    assert find_run("tiny") == Path("runs/tiny")
    assert main([*train, *outside, "--overwrite"]) == 0
    assert main(["checkpoint", "verify", "ck/tiny"]) == 0


def test_a_path_that_depends_on_the_folder_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("ck", "~/ck", "./ck"):
        assert main(["train", "--config", "tiny.toml", "--set", f"checkpoint.path={path}"]) == 2
        assert f'got "{path}"; it must be absolute, or an address' in capsys.readouterr().err


def test_another_run_s_place_is_refused(here: Path) -> None:
    config = small_config(here / "data", {"checkpoint": {"path": f"{here}/ck"}})
    first, second = here / "runs" / "a", here / "runs" / "b"
    own_checkpoint_place(config, RunDirectory(first, first))
    assert decide_action(inspect_directory(config, first), config, resume="auto", overwrite=False) == "begin"
    with pytest.raises(UserError, match=f"{here}/ck: holds the checkpoints of {first}; "):
        decide_action(inspect_directory(config, second), config, resume=False, overwrite=True)


def test_a_place_that_another_run_takes_meanwhile_is_refused(here: Path) -> None:
    """Both runs have looked, and found nobody's place; the second one loses neither its earlier run nor the other's."""
    config = small_config(here / "data", {"checkpoint": {"path": f"{here}/ck"}})
    first, second = here / "one" / "seed-0", here / "two" / "seed-0"
    for run_dir in (first, second):
        assert decide_action(inspect_directory(config, run_dir), config, resume=False, overwrite=True) == "begin"
    first.mkdir(parents=True)
    prepare_directory(config, RunDirectory(first, first), resuming=False)
    (here / "ck" / "step-7").mkdir()
    second.mkdir(parents=True)
    (second / "metrics.json").touch()
    with pytest.raises(UserError, match=f"^{here}/ck: holds the checkpoints of {first}; "):
        prepare_directory(config, RunDirectory(second, second), resuming=False)
    assert (here / "ck" / "step-7").is_dir()
    assert (second / "metrics.json").is_file()
    own_checkpoint_place(config, RunDirectory(first, first))  # it goes on


def test_a_place_that_cannot_be_made_is_told(here: Path) -> None:
    (here / "file").touch()
    config = small_config(here / "data", {"checkpoint": {"path": f"{here}/file/ck"}})
    said = rf"^{here}/file/ck: cannot be written \(.*\); ple-rec reads and writes there\. Fix: "
    with pytest.raises(UserError, match=said):
        own_checkpoint_place(config, RunDirectory(here / "runs" / "a", here / "runs" / "a"))


def test_a_place_that_holds_anything_else_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("step-1-raw/x", "step-7/x", "latest"):
        (here / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "mine" / name).write_text("mine")
    train = ["train", "--config", "tiny.toml", "--set", f"checkpoint.path={here}/mine"]
    for flags in ([], ["--overwrite"], ["--auto-resume"]):
        assert main([*train, *flags]) == 2
        assert capsys.readouterr().err == (
            f"ple-rec: {here}/mine: holds latest, step-1-raw, step-7, and no run.json that names their run; the "
            "checkpoints of a run need a directory of their own. Fix: give a checkpoint.path that is empty, such as "
            f"{here}/mine/{{run}}\n"
        )
    assert sorted(path.read_text() for path in (here / "mine").rglob("*") if path.is_file()) == ["mine"] * 3


def test_only_checkpoints_are_removed(here: Path) -> None:
    config = small_config(here / "data", {"checkpoint": {"path": f"{here}/ck"}})
    own_checkpoint_place(config, RunDirectory(here / "runs" / "a", here / "runs" / "a"))
    for name in ("step-7", "step-1-raw"):
        (here / "ck" / name).mkdir()
    with hold_run(here / "runs" / "a", here / "ck") as run:
        prepare_directory(config, run, resuming=False)
    assert sorted(path.name for path in (here / "ck").iterdir()) == ["run.json", "step-1-raw"]


@pytest.mark.parametrize("place", ["checkpoints", "elsewhere"])
def test_checkpoints_that_are_away_are_not_taken_for_none(
    place: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, run_dir = ["train", "--config", "tiny.toml"], here / "runs" / "tiny"
    where = run_dir / "checkpoints" if place == "checkpoints" else here / "ck" / "tiny"
    train += [] if place == "checkpoints" else ["--set", f"checkpoint.path={here}/ck/{{run}}"]
    assert main(train) == 0
    log = (run_dir / "train.jsonl").read_text()
    where.rename(here / "away")
    assert main([*train, "--auto-resume"]) == 0  # there are results: nothing is left to do
    (run_dir / "metrics.json").rename(here / "metrics.json")
    capsys.readouterr()
    for flag in ("--resume", "--auto-resume"):
        assert main([*train, flag]) == 2
        assert capsys.readouterr().err.startswith(
            f"ple-rec: {where.relative_to(here) if place == 'checkpoints' else where}: holds no checkpoint; the run of "
            "runs/tiny has saved checkpoints there, from which it resumes. Fix: mount them or copy them back; "
        )
    (run_dir / ".saved").unlink()  # as of an earlier version
    (here / "metrics.json").rename(run_dir / "metrics.json")
    assert main([*train, "--resume"]) == 2
    assert main(train) == 2
    assert (run_dir / "train.jsonl").read_text() == log
    assert not where.exists()
    shutil.move(here / "away", where)
    assert main([*train, "--resume"]) == 0


def test_a_run_that_lost_its_configuration_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, run_dir = ["train", "--config", "tiny.toml"], here / "runs" / "tiny"
    assert main(train) == 0
    (run_dir / "metrics.json").unlink()
    (run_dir / "config.toml").unlink()
    assert [str(path) for path in find_runs(here / "runs")] == []  # a checkpoint, which has it too, is no run
    capsys.readouterr()
    assert main(["train", "--run-dir", "runs/tiny", "--resume"]) == 2
    fix = capsys.readouterr().err.rpartition("Fix: ")[2]
    assert fix == "give that of a checkpoint: --config runs/tiny/checkpoints/step-16/config.toml\n"
    assert main([*train, "--auto-resume"]) == 0
    assert "goes on from runs/tiny/checkpoints/step-16\n" in capsys.readouterr().out
    assert (run_dir / "config.toml").is_file()


def test_a_link_that_leads_nowhere_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "runs" / "tiny").mkdir(parents=True)
    (here / "runs" / "tiny" / "checkpoints").symlink_to(here / "nowhere")
    (here / "runs" / "tiny" / "config.toml").write_text(dump_toml(load_config(RunConfig, "tiny.toml")))
    assert main(["train", "--config", "tiny.toml", "--resume"]) == 2
    assert (
        "runs/tiny/checkpoints/step-16: cannot be written ([Errno 17] File exists: 'runs/tiny/checkpoints'); a "
        in capsys.readouterr().err
    )
