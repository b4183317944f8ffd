"""`ple-rec checkpoint`: list, verify and show checkpoints, whole and damaged; what a damaged one costs a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ple_rec.cli import main
from tests.tiny import write_tiny
from tests.training.small import on_ranks

TRAIN = ["train", "--config", "tiny.toml", "--set", "checkpoint.every=4", "--set", "checkpoint.keep=3"]


def _verb(rank: int, world_size: int, here: Path, argv: list[str]) -> int:
    os.chdir(here)
    return main(argv)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a run of two ranks and 16 steps, three checkpoints of which are kept beside the best."""
    here = tmp_path_factory.mktemp("checkpoints")
    write_tiny(here)
    assert on_ranks(_verb, 2, here, TRAIN, init=False) == [0, 0]
    return here


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def test_list_and_show(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["step-8", "step-12", "step-16"]
    assert lines[-1].endswith("latest, best")
    assert main(["checkpoint", "list", "runs/tiny", "--json"]) == 0
    last = json.loads(capsys.readouterr().out)[-1]
    assert (last["step"], last["names"], last["written_by"]["ranks"]) == (16, ["latest", "best"], 2)
    files = [file for file in Path(last["path"]).iterdir() if file.name != "manifest.json"]
    assert last["bytes"] == sum(file.stat().st_size for file in files)

    assert main(["checkpoint", "show", "tiny", "--checkpoint", "step-8", "--json"]) == 0
    found = {item["key"]: item for item in json.loads(capsys.readouterr().out)}
    table = found["model.embeddings.embedding_bags.user.weight"]
    assert (table["shape"], table["dtype"], table["bytes"]) == ([50, 4], "float32", 800)
    assert main(["checkpoint", "show", "tiny"]) == 0
    assert "50 x 4" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["list", "tiny"], ["verify", "tiny", "--checkpoint", "latest"]])
def test_a_listing_and_checksums_need_no_torch(trained: Path, argv: list[str]) -> None:
    code = "import sys; from ple_rec.cli import main; sys.exit(main(sys.argv[1:]) + 10 * ('torch' in sys.modules))"
    command = [sys.executable, "-c", code, "checkpoint", *argv]
    done = subprocess.run(command, cwd=trained, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "step-16" in done.stdout


def test_a_step_has_one_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = Path("runs/tiny/checkpoints")
    other = shutil.copytree(directory / "step-16", directory / "step-0016")
    for verb in ("list", "verify"):
        assert main(["checkpoint", verb, "tiny"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0].rstrip(":") for line in lines if line.startswith("step")] == [
            "step-8",
            "step-12",
            "step-16",
        ]
    shutil.rmtree(other)


def test_damage_is_found_named_and_survived(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", "tiny"]) == 0
    assert capsys.readouterr().out.splitlines() == ["step-8: whole", "step-12: whole", "step-16: whole"]
    data = Path("runs/tiny/checkpoints/step-16/__1_0.distcp")
    whole = data.read_bytes()
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 1
    data.write_bytes(changed)
    assert main(["checkpoint", "verify", "tiny"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["step-8: whole", "step-12: whole", "step-16: DAMAGED"]
    assert lines[3].startswith("  runs/tiny/checkpoints/step-16/__1_0.distcp: CRC-32 ")
    assert lines[3].endswith("; its bytes changed")
    assert main(["checkpoint", "verify", "tiny", "--checkpoint", "step-12"]) == 0
    assert main(["checkpoint", "verify", "runs/tiny/checkpoints/step-12"]) == 0
    assert main(["checkpoint", "verify", "runs/tiny/checkpoints"]) == 3
    capsys.readouterr()
    assert main(["evaluate", "tiny", "--checkpoint", "latest"]) == 3
    said = "ple-rec: runs/tiny/checkpoints/step-16/__1_0.distcp: CRC-32 "
    assert capsys.readouterr().err.startswith(said)

    # The run goes on from the one before, says so, and ends with the same bytes as the run that was not damaged.
    assert on_ranks(_verb, 2, here, [*TRAIN, "--run-dir", "runs/tiny", "--resume"], init=False) == [0, 0]
    assert data.read_bytes() == whole
    assert main(["checkpoint", "verify", "tiny"]) == 0


def test_what_is_not_there_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", "tiny", "--checkpoint", "step-5"]) == 2
    assert capsys.readouterr().err.startswith(
        "ple-rec: runs/tiny/checkpoints: no checkpoint 'step-5'; there are best, "
    )
    assert main(["checkpoint", "list", "none"]) == 2
    assert "none" in capsys.readouterr().err
