"""A small feed of a few days and a chain over it: users 0 to 39, videos that come on each day; a click is by taste."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.api.daily import train_day
from ple_rec.config.daily import DAILY_CONFIGS, DailyConfig
from ple_rec.config.load import load_config
from ple_rec.days.record import DayRecord
from ple_rec.days.run import DayOptions, run_day
from ple_rec.errors import UserError
from ple_rec.inference import export
from tests.rank_processes import fork_server
from tests.reports.without_charts import without_charts

FIRST_DAY, ROWS, USERS = date(2024, 5, 1), 600, 40
DAY_MS = 86_400_000
PREP = """
name = "feed"
group = "user_id"
[log]
files = ["log"]
[time]
value = "time_ms"
unit = "ms"
[split]
by = "day"
train = [1, 3]
test = [4, 4]
valid_share = 0.5
[append]
valid = 0.2
test = 0.4
[tables.user]
capacity = 60
[tables.video]
capacity = 200
[[sparse]]
name = "user_id"
table = "user"
[[sparse]]
name = "video_id"
table = "video"
[[dense]]
name = "age"
[[tasks]]
name = "click"
kind = "binary"
label = "is_click"
[[tasks]]
name = "watch"
kind = "regression"
label = "watched"
"""
TRAIN = """
name = "feed"
[data]
path = "unused"
virtual_shards = 4
[embeddings]
dim = 4
[model]
variant = "ple"
[[model.levels]]
expert_hidden = [4]
[table_optimizer]
learning_rate = 0.1
[dense_optimizer]
learning_rate = 0.02
[train]
batch_size = 40
epochs = 2
[checkpoint]
every = 3
[runtime]
device = "cpu"
threads = 1
"""
DAILY = """
folder = "chain"
model = "model"
[prep]
config = "feed.toml"
source = "raw"
day_overrides = ['log.files=["log/day={day}"]']
threads = 1
[train]
config = "train.toml"
day_overrides = ["train.epochs=1"]
[export]
precision = "int8"
[gate]
min_positives = 30
margins = { click = { auc = 0.05 }, watch = { mse = 0.5 } }
"""


def day_name(day: int) -> str:
    """The date of a day, from 1."""
    return (FIRST_DAY + timedelta(day - 1)).isoformat()


def write_day(root: Path, day: int) -> None:
    """The log of a day, below `root/raw`; each day has 10 videos that are new."""
    world = np.random.default_rng(7)
    taste, quality = world.normal(size=(USERS, 2)), world.normal(size=(200, 2))
    random = np.random.default_rng(day)
    user, video = random.integers(0, USERS, ROWS), random.integers(0, 20 + 10 * day, ROWS)
    interest = (taste[user] * quality[video]).sum(1)
    midnight = (FIRST_DAY - date(1970, 1, 1)).days * DAY_MS + (day - 1) * DAY_MS
    folder = root / "raw" / "log" / f"day={day_name(day)}"
    folder.mkdir(parents=True)
    table = {
        "user_id": user + 1000,
        "video_id": [f"v{v}" for v in video],
        "time_ms": midnight + np.sort(random.integers(0, DAY_MS, ROWS)),
        "age": user % 7 + 0.5,
        "is_click": (random.random(ROWS) < 1 / (1 + np.exp(-2 * interest))).astype(int),
        "watched": np.clip(interest, -2, 2) + 0.1 * random.normal(size=ROWS),
    }
    pq.write_table(pa.table(table), folder / "part-0.parquet")


def write_feed(root: Path, days: int = 4) -> Path:
    """Logs of the first days, `feed.toml`, `train.toml` and `daily.toml` in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for day in range(1, days + 1):
        write_day(root, day)
    for name, text in (("feed.toml", PREP), ("train.toml", TRAIN), ("daily.toml", DAILY)):
        (root / name).write_text(text)
    return root


def run(day: int | None = None, *overrides: str, **more: Any) -> DayRecord:
    """A day of `daily.toml` of the working directory, in this process."""
    config = load_config(DailyConfig, "daily.toml", overrides, kind=DAILY_CONFIGS)
    options = DayOptions(config, Path(), None if day is None else date.fromisoformat(day_name(day)), **more)
    with without_charts():
        return run_day(options, train_day(1))


def _killed(root: Path, target: str, calls: int, *, before: bool) -> None:
    os.chdir(root)
    module, _, name = target.rpartition(":")
    owner: Any = __import__(module, fromlist=["_"])
    *path, name = name.split(".")
    for each in path:
        owner = getattr(owner, each)
    original: Callable[..., Any] = getattr(owner, name)
    count = 0

    def kill(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if before and count == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **keywords)
        if count == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with mock.patch.object(owner, name, kill):
        run()


def record_of(day: str) -> dict[str, Any]:
    """The content of a day's record in the chain of the working directory."""
    content: dict[str, Any] = json.loads(Path(f"chain/records/{day}.json").read_text())
    return content


def latest() -> str:
    """The name of the served version."""
    return Path("model/latest").read_text().strip()


def run_in_child(root: Path) -> int:
    """A day in a process of its own; its exit code."""
    process = fork_server().Process(target=_run_at, args=(root,))
    return _joined(process)


def _run_at(root: Path) -> None:
    os.chdir(root)
    run()


def disk_full_in_child(root: Path, limit: int) -> int:
    """A day in a process of its own, in which `model.json` cannot be written; its exit code.

    Args:
        root: Folder of `daily.toml`.
        limit: Bytes beyond which no file may grow from then on.
    """
    process = fork_server().Process(target=_with_full_disk, args=(root, limit))
    return _joined(process)


def _with_full_disk(root: Path, limit: int) -> None:
    os.chdir(root)
    original = export.write_description
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def write(*arguments: Any, **keywords: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        return original(*arguments, **keywords)

    with mock.patch.object(export, "write_description", write):
        try:
            run()
        except UserError as error:
            sys.exit(error.exit_code)


def kill_at(root: Path, target: str, calls: int = 1, *, before: bool = True) -> None:
    """Begin a day in a process of its own, which is killed at a call of a function, `module:name`.

    Args:
        root: Folder of `daily.toml`.
        target: The function.
        calls: Number of the call.
        before: True to kill before the function has done anything, False to kill when it has returned.
    """
    process = fork_server().Process(target=_killed, args=(root, target, calls), kwargs={"before": before})
    assert _joined(process) == -signal.SIGKILL, target


def _joined(process: Any) -> int:
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return int(process.exitcode)
