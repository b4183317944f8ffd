"""A run's `config.toml` that was edited by hand is refused wherever its checkpoints are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ple_rec.cli import main
from tests.checkpoint.forging import DOORS, STEP

CONFIG = Path("runs/tiny/config.toml")
EDITED = DOORS | {"init-from": ["edited.toml" if word == "tiny.toml" else word for word in DOORS["init-from"]]}


def _edit(old: str, new: str) -> None:
    text = CONFIG.read_text()
    assert old in text
    CONFIG.write_text(text.replace(old, new, 1))
    Path("edited.toml").write_text(CONFIG.read_text())


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_another_model(door: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit('activation = "relu"', 'activation = "tanh"')
    capsys.readouterr()
    assert main(EDITED[door]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ple-rec: {CONFIG}: model.activation was 'relu', is 'tanh'; {STEP} was trained with ")
    assert f"copy {STEP}/config.toml to this file" in said
    CONFIG.write_bytes((STEP / "config.toml").read_bytes())  # the fix
    assert main(DOORS["evaluate"]) == 0


def test_a_run_goes_on_as_it_began(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = CONFIG.read_text()
    for old, new in (("seed = 0", "seed = 1"), ("weight_decay = 0.0", "weight_decay = 0.5")):
        _edit(old, new)
        assert main(DOORS["resume"]) == 2
        assert new.split()[0] in capsys.readouterr().err
        CONFIG.write_text(whole)


def test_what_may_change_may_be_edited(here: Path, tmp_path: Path) -> None:
    _edit("report_every = ", "report_every = 1")
    _edit("[checkpoint]", f'[checkpoint]\npath = "{tmp_path}/moved"')
    (tmp_path / "moved").symlink_to(Path("runs/tiny/checkpoints").absolute())
    assert main(DOORS["evaluate"]) == 0
