"""A run that is stopped, however and whenever: the next one goes on or starts again, and never mixes."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.pipeline import Pipeline
from data_prep.stage import STATE_FILE
from ple_rec.cli import main
from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError
from tests.data_prep.feed_logs import digests
from tests.data_prep.plain_logs import Logs, day_of

ROWS = 240  # of a day
PARTS = ("output.part_rows=40", "output.row_group_rows=10")
OTHER = ("tables.video_id.min_count=100",)


def logs_in(root: Path) -> Logs:
    logs = Logs(root)
    for day in range(1, 5):
        logs.write(day, day_of(day, ROWS))
    return logs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of all files of runs that nothing stops."""
    found = {}
    for name, more in (("first", ()), ("other", OTHER)):
        logs = logs_in(tmp_path_factory.mktemp(name))
        logs.prepare(*PARTS, *more)
        found[name] = digests(logs.out)
    assert len(found["first"]) >= 30
    assert found["first"] != found["other"]
    return found


def verb(logs: Logs, *more: str) -> list[str]:
    sets = [word for key in PARTS for word in ("--set", key)]
    return ["prep", str(logs.toml), "--from", str(logs.raw), "--out", str(logs.out), "--threads", "1", *sets, *more]


def started(logs: Logs, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ple_rec", *verb(logs, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(child: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Return as soon as something is there, or the child has ended."""
    end = time.monotonic() + 60
    while child.poll() is None and not there():
        assert time.monotonic() < end
        time.sleep(0.0005)


def stage_of(logs: Logs) -> Path:
    return logs.root / ".out.partial"


def parts_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every part of a folder."""
    found = {}
    for path in folder.glob("*/part-*.parquet"):
        status = path.stat()
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_mtime_ns)
    return found


def hidden(logs: Logs) -> list[str]:
    return sorted(path.name for path in logs.root.iterdir() if path.name.startswith("."))


def check_what_a_kill_left(logs: Logs, whole: dict[str, str]) -> None:
    """A dataset directory is there, complete, or not at all; then the next run goes on with what is finished."""
    if logs.out.exists():
        assert digests(logs.out) == whole
        return
    kept = parts_of(stage_of(logs)) if (stage_of(logs) / STATE_FILE).exists() else {}
    with pytest.raises(UserError):
        Dataset(logs.out)
    logs.prepare(*PARTS)
    assert digests(logs.out) == whole
    assert kept.items() <= parts_of(logs.out).items()
    assert hidden(logs) == []


MOMENTS = {
    "at the beginning": lambda stage: (stage / STATE_FILE).exists(),
    "between parts": lambda stage: len(list(stage.glob("train/part-*.parquet"))) > 2,
    "near the end": lambda stage: (stage / "test").exists() and any((stage / "test").glob("*.parquet")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on(moment: str, tmp_path: Path, whole: dict[str, dict[str, str]]) -> None:
    logs = logs_in(tmp_path)
    child = started(logs)
    wait_for(child, lambda: MOMENTS[moment](stage_of(logs)))
    child.kill()
    child.communicate()
    check_what_a_kill_left(logs, whole["first"])


@pytest.mark.slow
def test_runs_that_are_killed_again_and_again(tmp_path: Path, whole: dict[str, dict[str, str]]) -> None:
    """Twenty kills at any moment, each followed by a run that goes on, sometimes killed as well."""
    chance = random.Random(7)
    begin = time.monotonic()
    logs = logs_in(tmp_path / "whole")
    started(logs).communicate()
    takes = time.monotonic() - begin
    killed = 0
    for number in range(20):
        logs = logs_in(tmp_path / str(number))
        for _ in range(chance.choice((1, 1, 2))):
            child = started(logs)
            time.sleep(chance.uniform(0.2, 1.0) * takes)
            killed += child.poll() is None
            child.kill()
            child.communicate()
        check_what_a_kill_left(logs, whole["first"])
    assert killed > 10


def test_a_killed_run_is_not_mixed_with_another_configuration(tmp_path: Path, whole: dict[str, dict[str, str]]) -> None:
    logs = logs_in(tmp_path)
    child = started(logs)
    wait_for(child, lambda: len(list(stage_of(logs).glob("train/part-*.parquet"))) > 2)
    child.kill()
    child.communicate()
    assert not logs.out.exists()
    logs.prepare(*PARTS, *OTHER)
    assert digests(logs.out) == whole["other"]
    assert hidden(logs) == []


def test_a_part_that_a_crash_of_the_machine_has_cut_is_written_again(
    tmp_path: Path, whole: dict[str, dict[str, str]]
) -> None:
    logs = logs_in(tmp_path)
    killed_at(logs, "stage.replace", "3")
    state = json.loads((stage_of(logs) / STATE_FILE).read_text())
    first, second, *_ = sorted(stage_of(logs).glob("train/part-*.parquet"))
    first.write_bytes(first.read_bytes()[:-9])
    second.write_bytes((logs.raw / "log" / "day 1.parquet").read_bytes())
    check = parts_of(stage_of(logs))
    assert state == {"fingerprint": logs.prepare(*PARTS).schema.fingerprint}
    assert digests(logs.out) == whole["first"]
    assert parts_of(logs.out)["train/part-00000.parquet"] != check["train/part-00000.parquet"]


def with_another_value(content: bytes) -> bytes:
    """A Parquet file of which one bit differs, and reads as other rows where nobody looks at checksums."""
    rows = pq.read_table(pa.BufferReader(content))
    for bit in range(8 * len(content)):
        other = bytearray(content)
        other[bit // 8] ^= 1 << bit % 8
        with suppress(pa.ArrowException, OSError):
            if not pq.read_table(pa.BufferReader(other)).equals(rows):
                return bytes(other)
    raise AssertionError


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "another value": with_another_value,
    "cut": lambda content: content[:-9],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_vocabulary_that_was_damaged_meanwhile_is_counted_again(
    damage: str, tmp_path: Path, whole: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    logs = logs_in(tmp_path)
    monkeypatch.setattr(Pipeline, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        logs.prepare(*PARTS)
    monkeypatch.undo()
    kept = stage_of(logs) / "vocab" / "video_id.parquet"
    kept.write_bytes(DAMAGES[damage](kept.read_bytes()))
    logs.prepare(*PARTS)
    assert digests(logs.out) == whole["first"]


KILLED = """
import os, sys
from pathlib import Path
where, count, *verb = sys.argv[1:]
left = int(count)

def counted(method):
    def call(self, target):
        global left
        if where == "stage.replace" and self.name.startswith("part-"):
            left -= 1
        elif where == "publish" and self.name == ".out.partial":
            left -= 1
        elif where == "remove" and self.name == ".out.partial":
            method(self, target)
            left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
        return method(self, target) if self.exists() else target
    return call

Path.replace, Path.rename = counted(Path.replace), counted(Path.rename)
from ple_rec.cli import main
sys.exit(main(verb))
"""


def killed_at(logs: Logs, where: str, count: str, *more: str) -> None:
    """A run that is killed at a place of the code."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, count, *verb(logs, *more)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_that_is_killed_before_the_directory_takes_its_place(
    tmp_path: Path, whole: dict[str, dict[str, str]]
) -> None:
    logs = logs_in(tmp_path)
    killed_at(logs, "publish", "1")
    assert not logs.out.exists()
    assert sorted(path.name for path in stage_of(logs).iterdir() if path.name[0] == "_") == [SUCCESS_FILE]
    kept = parts_of(stage_of(logs))
    logs.prepare(*PARTS)
    assert digests(logs.out) == whole["first"]
    assert parts_of(logs.out) == kept
    assert hidden(logs) == []


def test_a_run_that_is_killed_while_it_replaces_a_dataset(tmp_path: Path, whole: dict[str, dict[str, str]]) -> None:
    """Between the two renames there is no dataset directory: whatever runs next finds the old one again."""
    logs = logs_in(tmp_path)
    logs.prepare(*PARTS)
    killed_at(logs, "publish", "1", "--overwrite", "--set", OTHER[0])
    assert not logs.out.exists()
    left = hidden(logs)
    assert [re.sub(r"old-\w+", "old", name) for name in left] == [".out.lock", ".out.old", ".out.partial"]
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("raw"))

    assert logs.prepare(*PARTS).reused
    assert digests(logs.out) == whole["first"]
    assert hidden(logs) == []

    for name in (*left, "out"):
        shutil.rmtree(logs.root / name, ignore_errors=True)
    shutil.copytree(tmp_path / "copy", tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"holds a dataset of another configuration .* pass --overwrite"):
        logs.prepare("name=third")
    assert digests(logs.out) == whole["first"]
    assert hidden(logs) == [".out.partial"]

    kept = parts_of(stage_of(logs))
    assert len(kept) > 10
    logs.prepare(*PARTS, *OTHER, overwrite=True)
    assert digests(logs.out) == whole["other"]
    assert parts_of(logs.out) == kept
    assert hidden(logs) == []


def test_a_run_that_is_killed_after_it_has_replaced_a_dataset(tmp_path: Path, whole: dict[str, dict[str, str]]) -> None:
    logs = logs_in(tmp_path)
    logs.prepare(*PARTS)
    killed_at(logs, "remove", "1", "--overwrite", "--set", OTHER[0])
    assert digests(logs.out) == whole["other"]
    assert logs.prepare(*PARTS, *OTHER).reused
    assert hidden(logs) == []


def test_one_run_at_a_time(
    tmp_path: Path, whole: dict[str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    logs = logs_in(tmp_path)
    child = started(logs)
    wait_for(child, (stage_of(logs) / STATE_FILE).exists)
    child.send_signal(signal.SIGSTOP)
    before = sorted(stage_of(logs).rglob("*"))
    assert main(verb(logs)) == 2
    assert f"{logs.out}: another run is preparing it; one run writes a dataset" in capsys.readouterr().err
    assert sorted(stage_of(logs).rglob("*")) == before
    child.send_signal(signal.SIGCONT)
    _, said = child.communicate()
    assert child.returncode == 0, said
    assert digests(logs.out) == whole["first"]
    assert hidden(logs) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop(number: signal.Signals, tmp_path: Path, whole: dict[str, dict[str, str]]) -> None:
    logs = logs_in(tmp_path)
    child = started(logs)
    wait_for(child, lambda: (stage_of(logs) / "vocab").exists())
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    then = "the same command goes on from what is finished" if stage_of(logs).is_dir() else "nothing was finished"
    assert said.splitlines()[-1] == f"ple-rec: stopped by {number.name}; {then}"
    assert "Traceback" not in said
    assert not logs.out.exists()
    assert [path for path in stage_of(logs).rglob("*") if ".unfinished" in path.name] == []
    assert hidden(logs) in ([], [".out.partial"])
    check_what_a_kill_left(logs, whole["first"])
