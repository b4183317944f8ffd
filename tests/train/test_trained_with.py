"""A run's `config.toml` that was edited by hand is refused wherever its checkpoints are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.cli import main
from tests.tiny import write_tiny

CONFIG = Path("runs/tiny/config.toml")
STEP = Path("runs/tiny/checkpoints/step-16")
DOORS = {
    "evaluate": ["evaluate", "tiny"],
    "export": ["export", "tiny", "--out", "model"],
    "predict": ["predict", "tiny", "--out", "predictions"],
    "resume": ["train", "--run-dir", "runs/tiny", "--resume"],
    "init-from": ["train", "--config", "edited.toml", "--run-dir", "runs/next", "--init-from", "runs/tiny"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("trained_with")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--config", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, whose run has its own configuration again afterwards."""
    monkeypatch.chdir(trained)
    return trained


def _edit(old: str, new: str) -> None:
    text = CONFIG.read_text()
    assert old in text
    CONFIG.write_text(text.replace(old, new, 1))
    Path("edited.toml").write_text(CONFIG.read_text())


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_another_model(door: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = CONFIG.read_text()
    _edit('activation = "relu"', 'activation = "tanh"')
    try:
        capsys.readouterr()
        assert main(DOORS[door]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"ple-rec: {CONFIG}: model.activation was 'relu', is 'tanh'; {STEP} was trained with ")
        assert f"copy {STEP}/config.toml there" in said
        CONFIG.write_bytes((STEP / "config.toml").read_bytes())  # the fix
        assert main(DOORS["evaluate"]) == 0
    finally:
        CONFIG.write_text(whole)


def test_a_run_goes_on_as_it_began(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = CONFIG.read_text()
    for old, new in (("seed = 0", "seed = 1"), ("weight_decay = 0.0", "weight_decay = 0.5")):
        _edit(old, new)
        assert main(DOORS["resume"]) == 2
        assert new.split()[0] in capsys.readouterr().err
        CONFIG.write_text(whole)


def test_what_may_change_may_be_edited(here: Path, tmp_path: Path) -> None:
    whole = CONFIG.read_text()
    _edit("report_every = ", "report_every = 1")
    _edit("[checkpoint]", f'[checkpoint]\npath = "{tmp_path}/moved"')
    (tmp_path / "moved").symlink_to(Path("runs/tiny/checkpoints").absolute())
    assert main(DOORS["evaluate"]) == 0
    CONFIG.write_text(whole)
