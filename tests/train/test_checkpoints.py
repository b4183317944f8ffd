"""Checkpoints that lie outside of the run directory: whose they are, and that nobody takes them for nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ple_rec.analysis.find_runs import named_run
from ple_rec.cli import main
from ple_rec.errors import UserError
from ple_rec.train.checkpoints import check_owned, claim_checkpoints, is_lost
from ple_rec.train.run_dir import checkpoints_of, holds_run
from tests.tiny import write_tiny
from tests.train.small import small_config


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
    assert checkpoints_of(run_dir) == here / "ck" / "tiny"
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
    assert is_lost(config, run_dir)
    assert not is_lost(config, here / "runs" / "other")
    assert main([*train, *outside, "--resume"]) == 0
    assert "goes on from" in capsys.readouterr().out
    assert named_run("tiny") == Path("runs/tiny")
    assert main([*train, *outside, "--overwrite"]) == 0
    assert main(["checkpoint", "verify", "ck/tiny"]) == 0


def test_a_path_that_depends_on_the_folder_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("ck", "~/ck", "./ck"):
        assert main(["train", "--config", "tiny.toml", "--set", f"checkpoint.path={path}"]) == 2
        assert f'got "{path}"; it is absolute, or an address' in capsys.readouterr().err


def test_another_run_s_place_is_refused(here: Path) -> None:
    config = small_config(here / "data", {"checkpoint": {"path": f"{here}/ck"}})
    claim_checkpoints(config, here / "runs" / "a", overwrite=False)
    check_owned(config, here / "runs" / "a", resume=True, overwrite=False)
    with pytest.raises(UserError, match=f"{here}/ck: holds the checkpoints of {here}/runs/a; "):
        check_owned(config, here / "runs" / "b", resume=False, overwrite=True)
    (here / "ck" / "run.json").write_text("{")
    with pytest.raises(UserError, match="holds the checkpoints of a run that cannot be told"):
        check_owned(config, here / "runs" / "a", resume=True, overwrite=False)


def test_a_place_that_cannot_be_made_is_told(here: Path) -> None:
    (here / "file").touch()
    config = small_config(here / "data", {"checkpoint": {"path": f"{here}/file/ck"}})
    said = rf"^{here}/file/ck: cannot be written \(.*\); a run's checkpoints lie there\. Fix: "
    with pytest.raises(UserError, match=said):
        claim_checkpoints(config, here / "runs" / "a", overwrite=False)
