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
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.output.stage import STATE_FILE, open_stage
from ple_rec.cli import main
from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.data.dataset import DatasetDirectory
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
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Logs]:
    """Logs and datasets of runs that nothing stops, not to be changed."""
    found = {}
    for name, more in (("first", ()), ("other", OTHER)):
        found[name] = logs_in(tmp_path_factory.mktemp(name) / "logs")
        found[name].prepare(*PARTS, *more)
    return found


@pytest.fixture
def ready(done: dict[str, Logs], tmp_path: Path) -> Logs:
    """A copy of the first of them."""
    shutil.copytree(done["first"].root, tmp_path / "logs")
    return Logs.there(tmp_path / "logs")


@pytest.fixture(scope="module")
def whole(done: dict[str, Logs]) -> dict[str, dict[str, str]]:
    """Digests of all files of those datasets."""
    found = {name: digests(logs.out) for name, logs in done.items()}
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
        DatasetDirectory(logs.out)
    logs.prepare(*PARTS)
    assert digests(logs.out) == whole
    assert kept.items() <= parts_of(logs.out).items()
    assert hidden(logs) == []


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


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed when its vocabularies and two parts of train were finished; to be copied."""
    logs = logs_in(tmp_path_factory.mktemp("killed") / "logs")
    killed_at(logs, "stage.replace", "3")
    assert len(parts_of(stage_of(logs))) == 2
    return logs.root


@pytest.fixture
def logs(killed: Path, tmp_path: Path) -> Logs:
    """A copy of what the killed run left."""
    shutil.copytree(killed, tmp_path / "logs")
    return Logs.there(tmp_path / "logs")


def test_a_killed_run_goes_on(logs: Logs, whole: dict[str, dict[str, str]]) -> None:
    check_what_a_kill_left(logs, whole["first"])


def test_a_killed_run_is_not_mixed_with_another_configuration(logs: Logs, whole: dict[str, dict[str, str]]) -> None:
    logs.prepare(*PARTS, *OTHER)
    assert digests(logs.out) == whole["other"]
    assert hidden(logs) == []


def test_a_part_that_a_crash_of_the_machine_has_cut_is_written_again(
    logs: Logs, whole: dict[str, dict[str, str]]
) -> None:
    state = json.loads((stage_of(logs) / STATE_FILE).read_text())
    first, second = sorted(stage_of(logs).glob("train/part-*.parquet"))
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
    damage: str, logs: Logs, whole: dict[str, dict[str, str]]
) -> None:
    kept = stage_of(logs) / "vocab" / "video_id.parquet"
    kept.write_bytes(DAMAGES[damage](kept.read_bytes()))
    logs.prepare(*PARTS)
    assert digests(logs.out) == whole["first"]


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "at the beginning": lambda stage: (stage / STATE_FILE).exists(),
    "between parts": lambda stage: len(list(stage.glob("train/part-*.parquet"))) > 2,
    "near the end": lambda stage: (stage / "test").exists() and any((stage / "test").glob("*.parquet")),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_from_outside_goes_on(
    moment: str, tmp_path: Path, whole: dict[str, dict[str, str]]
) -> None:
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


def stop(*arguments: Any, **options: Any) -> NoReturn:
    raise KeyboardInterrupt


def test_a_run_that_stops_before_the_directory_takes_its_place(
    tmp_path: Path, whole: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = logs_in(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("data_prep.output.stage.publish", stop)
        with pytest.raises(KeyboardInterrupt):
            logs.prepare(*PARTS)
    assert not logs.out.exists()
    assert sorted(path.name for path in stage_of(logs).iterdir() if path.name[0] == "_") == [SUCCESS_FILE]
    kept = parts_of(stage_of(logs))
    logs.prepare(*PARTS)
    assert digests(logs.out) == whole["first"]
    assert parts_of(logs.out) == kept
    assert hidden(logs) == []


def test_a_run_that_is_killed_while_it_replaces_a_dataset(
    ready: Logs, tmp_path: Path, whole: dict[str, dict[str, str]]
) -> None:
    """Between the two renames there is no dataset directory: whatever runs next finds the old one again."""
    logs = ready
    killed_at(logs, "publish", "1", "--overwrite", "--set", OTHER[0])
    assert not logs.out.exists()
    left = hidden(logs)
    assert [re.sub(r"old-\w+", "old", name) for name in left] == [".out.lock", ".out.old", ".out.partial"]
    shutil.copytree(logs.root, tmp_path / "copy", ignore=shutil.ignore_patterns("raw"))

    assert logs.prepare(*PARTS).reused
    assert digests(logs.out) == whole["first"]
    assert hidden(logs) == []

    for name in (*left, "out"):
        shutil.rmtree(logs.root / name, ignore_errors=True)
    shutil.copytree(tmp_path / "copy", logs.root, dirs_exist_ok=True)
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


@pytest.mark.slow
def test_a_run_that_is_killed_after_it_has_replaced_a_dataset(ready: Logs, whole: dict[str, dict[str, str]]) -> None:
    killed_at(ready, "remove", "1", "--overwrite", "--set", OTHER[0])
    check_what_was_replaced(ready, whole)


def test_a_run_that_stops_after_it_has_replaced_a_dataset(
    ready: Logs, whole: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("data_prep.output.writer._remove_old", stop)
        with pytest.raises(KeyboardInterrupt):
            ready.prepare(*PARTS, *OTHER, overwrite=True)
    check_what_was_replaced(ready, whole)


def check_what_was_replaced(logs: Logs, whole: dict[str, dict[str, str]]) -> None:
    """The new dataset is there, and the next run removes the old one."""
    assert digests(logs.out) == whole["other"]
    assert any(name.startswith(".out.old-") for name in hidden(logs))
    assert logs.prepare(*PARTS, *OTHER).reused
    assert hidden(logs) == []


def test_one_run_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = logs_in(tmp_path)
    with open_stage(logs.out):
        before = sorted(logs.root.rglob("*"))
        assert main(verb(logs)) == 2
        assert f"{logs.out}: another run is preparing this dataset; one run writes a dataset" in capsys.readouterr().err
        assert sorted(logs.root.rglob("*")) == before


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_run_that_is_asked_to_stop(number: signal.Signals, tmp_path: Path, whole: dict[str, dict[str, str]]) -> None:
    logs = logs_in(tmp_path)
    child = started(logs)
    wait_for(child, lambda: (stage_of(logs) / "vocab").exists())
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    then = "the same command goes on from what is finished" if stage_of(logs).is_dir() else "nothing was finished"
    # A library's finaliser that was interrupted may write a line of its own at the end.
    assert f"ple-rec: stopped by {number.name}; {then}" in said.splitlines()
    assert "Traceback" not in said
    assert not logs.out.exists()
    assert [path for path in stage_of(logs).rglob("*") if ".unfinished" in path.name] == []
    assert hidden(logs) in ([], [".out.partial"])
    check_what_a_kill_left(logs, whole["first"])
