"""A checkpoint that its run removes while it is read is no damage, and no matter of credentials."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from ple_rec.checkpoint.manifest import MANIFEST
from ple_rec.cli import main
from tests.checkpoint.forging import DOORS, SHOW, STEP, run

LATEST = ["--checkpoint", "latest"]


def _before(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call`, before which the run removes the checkpoint, its manifest first."""

    def removed(*args: Any, **named: Any) -> Any:
        if STEP.exists():
            (STEP / MANIFEST).unlink()
            shutil.rmtree(STEP)
        return call(*args, **named)

    return removed


@pytest.mark.parametrize(
    ("argv", "at"),
    [
        (SHOW, "inspect.read_manifest"),
        (SHOW, "inspect.check_size"),
        (SHOW, "files.check_content"),
        (["checkpoint", "verify", "tiny", *LATEST], "inspect.read_manifest"),
        (["checkpoint", "verify", "tiny", *LATEST], "inspect.check_content"),
        ([*DOORS["evaluate"], *LATEST], "load.read_manifest"),
        ([*DOORS["evaluate"], *LATEST], "load.check_content"),
        ([*DOORS["evaluate"], *LATEST], "load.dcp.load"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_it_says_so(
    argv: list[str], at: str, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"ple_rec.checkpoint.{at}"
    monkeypatch.setattr(target, _before(resolve_name(target)))
    code, said = run(argv, capfd)
    assert (code, said.partition(";")[0]) == (2, f"ple-rec: {STEP}: was removed while it was read")
    assert "run the command again" in said


def test_the_others_are_listed_and_verified(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ple_rec.checkpoint.inspect as inspect

    for verb, name in (("list", "read_manifest"), ("verify", "check_content")):
        other = STEP.with_name("step-8")
        shutil.copytree(STEP, other, dirs_exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(inspect, name, _before(getattr(inspect, name)))
            assert main(["checkpoint", verb, "tiny"]) == (0 if verb == "list" else 3)  # the copy is of another step
        assert "step-16" not in (said := capsys.readouterr().out)
        assert "step-8" in said
        other.rename(STEP)
