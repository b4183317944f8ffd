"""The commands that make each artefact, in a folder that holds `raw/` and the TOML files of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.golden.doors import succeed
from tests.golden.raw_logs import NEXT_DAY

HERE = Path(__file__).resolve().parent
ARTEFACTS = HERE / "artefacts"  # of version 0.1.0, all that it leaves
# Folders of later versions, newest first, each with the files in which it differs from the version before.
NEWER = (HERE / "artefacts-0.5.0", HERE / "artefacts-0.4.0", HERE / "artefacts-0.3.0")
RANKS = {"one": 1, "two": 2}  # of each run
MIDDLE, LAST = 20, 40  # steps of the checkpoints
VERSION = Path("models/golden/versions/v1")


def copy_newer(version: Path, at: Path) -> None:
    """Copy what a later version has left to `at`.

    Args:
        version: One of `NEWER`.
        at: New folder.
    """
    for folder in reversed(NEWER[NEWER.index(version) :]):  # The files of a version replace those of older ones.
        shutil.copytree(folder, at, dirs_exist_ok=True)


def copy_configurations(at: Path) -> None:
    """Copy `feed.toml`, `feed_csv.toml` and `ple.toml` to `at`."""
    for file in HERE.glob("*.toml"):
        shutil.copy(file, at)


def prepare(at: Path, *options: str) -> None:
    """Make `data/golden` of Parquet logs and `data/csv` of CSV logs.

    Args:
        at: The working directory.
        options: Further options of both; with any, the verb runs in a process of its own.
    """
    for file, out in (("feed.toml", "data/golden"), ("feed_csv.toml", "data/csv")):
        succeed("prep", file, "--from", "raw", "--out", out, *options, at=at, apart=bool(options))


def append(at: Path) -> None:
    """Make `data/next`, one more day with the ids of `data/golden`."""
    day = ("--append", f"day={NEXT_DAY}", "--parent", "data/golden", "--set", 'log.files=["next"]')
    succeed("prep", "feed.toml", "--from", "raw", "--out", "data/next", *day, at=at)


def train(run: str, at: Path) -> None:
    """Make `runs/one` on one rank, or `runs/two` on two."""
    verb = ("train", "--config", "ple.toml", "--run-dir", f"runs/{run}", "--ranks", str(RANKS[run]))
    succeed(*verb, at=at, apart=RANKS[run] > 1)


def fuse(at: Path) -> None:
    """Make `runs/one/fusion` with a calibration, a scale and an f of the length in it; its gain is within chance."""
    shape = ("--length", "seconds:log", "--calibrate", "platt", "--scale", "completion=1.5")
    succeed("fuse", "runs/one", "--target", "share.mean@3", *shape, "--grid", "16", "--trials", "0", "--install", at=at)


def export(at: Path, out: str = "models/golden") -> None:
    """Make a model of `runs/one` with two held-out users in `examples.json`."""
    succeed("export", "runs/one", "--out", out, "--examples", "2", "--licence", "of a test", at=at)


def predict(at: Path, out: str = "predictions") -> None:
    """Make predictions of the test split by `runs/one`."""
    succeed("predict", "runs/one", "--out", out, at=at)


def plan(at: Path, out: str = "plan.json") -> str:
    """Make `plan.json`, for two hosts of two ranks; return what `--json` prints."""
    cluster = ("--hosts", "2", "--ranks-per-host", "2", "--device", "cpu")
    return succeed("plan", "--config", "ple.toml", *cluster, "--out", out, "--json", at=at)
