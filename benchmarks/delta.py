"""Bytes and seconds of `export --delta` beside a whole export of the same run, and of a server that takes the version.

    python -m benchmarks.delta [--rows N] [--changed SHARE] [--repeats N]

The users' table has `--rows` rows; `--rows 46926000` is that of the paper. A first log has each user once. From it
come a dataset, a run of a few steps, and the whole version v1. An appended day has a row for each user of the share
`--changed`, one in ten of them new. A run starts from the first one and trains on the day. This run is then exported
whole and as a delta of v1, by turns, by the command line, with tables in int8.

Then, by turns, a new server with v1 is told by `latest` and SIGHUP to take the delta or the whole version, and the time
counts until it answers by the new version.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import conditions, parser, peak_bytes, say, scratch_folder
from ple_rec.text import align_columns

_DAY_MS, _FIRST_MS = 86_400_000, 19_844 * 86_400_000  # 2024-05-01
_VIDEOS, _HELD_OUT_ROWS, _CHUNK = 20_000, 20_000, 1_000_000
_NEW_SHARE = 0.1  # share of the users of the appended day that are new
_BASE, _NEW = "v1", "v2"  # names of the versions
# Folders of the model, in which v2 is a whole version or a delta of v1.
_MODELS = ("whole", "delta")


class Done(NamedTuple):
    """Child process that has ended: its duration, and its largest resident memory in bytes."""

    seconds: float
    peak_bytes: int


def run_verb(folder: Path, *words: str) -> Done:
    """Run a subcommand of `ple-rec` in a folder."""
    say(f"ple-rec {' '.join(words)}")
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "ple_rec", *words],
        cwd=folder,
        stdout=sys.stderr,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    done = Done(time.perf_counter() - begun, usage.ru_maxrss * 1024)
    if status:
        raise SystemExit(f"ple-rec {words[0]} failed")
    say(f"ple-rec {words[0]}: {done.seconds:.1f} s, {done.peak_bytes / 2**30:.1f} GiB")
    return done


def write_logs(folder: Path, users: int, changed: int) -> None:
    """Write the raw logs: day 1 has each user once, day 2 the held-out rows, and day 3 the users that change."""
    new = round(_NEW_SHARE * changed)
    # Multiplication by a prime modulo the number of users visits each of them once, in no order of their numbers.
    scattered = {
        1: lambda i: i * 1_000_003 % users,
        2: lambda i: i * 7_919 % users,
        3: lambda i: np.where(i < new, users + i, (i * 15_485_863 + 11) % users),
    }
    for day, rows in {1: users, 2: _HELD_OUT_ROWS, 3: changed}.items():
        where = folder / "log" / f"day={day}"
        where.mkdir(parents=True)
        for part, begin in enumerate(range(0, rows, _CHUNK)):
            i_N = np.arange(begin, min(begin + _CHUNK, rows))
            random = np.random.default_rng([day, part])
            video_N = (_VIDEOS * random.random(len(i_N)) ** 2).astype(np.int64)
            user_N = scattered[day](i_N)
            table = pa.table(
                {
                    "user_id": user_N * 7 + 1_000_000,
                    "video_id": video_N,
                    "tab": random.integers(0, 8, len(i_N)),
                    "time_ms": _FIRST_MS + (day - 1) * _DAY_MS + i_N * (_DAY_MS - 1) // rows,
                    "is_click": (random.random(len(i_N)) < 0.2 + 0.3 * (user_N % 3 == video_N % 3)).astype(np.int64),
                    "watched": random.random(len(i_N)),
                }
            )
            pq.write_table(table, where / f"part-{part}.parquet", compression="zstd")


def prep_toml(users: int) -> str:
    """Return the configuration of the preparation; the users' table has rows for the new users of some days."""
    return f"""
name = "delta"
group = "user_id"
log.files = ["log/day=1", "log/day=2"]
time = {{ value = "time_ms", unit = "ms" }}
split = {{ by = "day", train = [1, 1], test = [2, 2], valid_share = 0.5 }}
append = {{ valid = 0.01, test = 0.01 }}
tables.user_id.capacity = {users + users // 50 + 1}
tables.video_id.capacity = {_VIDEOS + 1}

[[sparse]]
name = "user_id"
[[sparse]]
name = "video_id"
[[sparse]]
name = "tab"

[[tasks]]
name = "click"
kind = "binary"
label = "is_click"
[[tasks]]
name = "watched"
kind = "regression"
label = "watched"
"""


def train_runs(folder: Path, args: argparse.Namespace) -> None:
    """Train the run `first` for a few steps, export it as v1, and train `second` on the appended day."""
    users = args.rows
    write_logs(folder, users, round(args.changed * users))
    (folder / "prep.toml").write_text(prep_toml(users), encoding="utf-8")
    memory = ("--memory", f"{args.memory}")
    run_verb(folder, "prep", "prep.toml", "--out", "data-first", *memory)
    days = ("--append", "day=3", "--parent", "data-first", "--set", 'log.files=["log/day=3"]')
    run_verb(folder, "prep", "prep.toml", "--out", "data-second", *days, *memory)
    shutil.rmtree(folder / "log")
    settings = {
        "data.described_by": "",
        "data.virtual_shards": 8,
        "train.batch_size_per_rank": args.batch_size,
        "train.best_metric": "loss",
        "train.precision": "fp32",
    }

    def train(name: str, *more: str) -> None:
        texts = [f"{key}={value}" for key, value in settings.items()]
        sets = [word for text in (*texts, f"data.path=data-{name}", *more) for word in ("--set", text)]
        start = ("--init-from", "first:latest") if name == "second" else ()
        run_verb(folder, "train", "--config", "tencent-ple", "--run-dir", f"runs/{name}", *sets, *start)

    train("first", "train.epochs=", "train.steps=5")
    train("second")
    export(folder, "first", "base", _BASE)


def export(folder: Path, run: str, model: str, version: str, *more: str) -> Done:
    """Export a run; the scores are not compared with a tolerance, since the models are nearly untrained."""
    checks = ("--tolerance", "1", "--auc-loss", "1")
    words = ("--precision", "int8", "--checkpoint", "latest", "--version", version, *checks, *more)
    return run_verb(folder, "export", f"runs/{run}", "--out", f"models/{model}", *words)


def version_bytes(version: Path) -> int:
    """Return the bytes of all files of a version."""
    return sum(file.stat().st_size for file in version.rglob("*") if file.is_file())


def export_by_turns(folder: Path, repeats: int) -> dict[str, list[Done]]:
    """Export the run `second` whole and as a delta of v1; each has a folder of its own that begins with v1."""
    for model in _MODELS:
        shutil.rmtree(folder / "models" / model, ignore_errors=True)
        # Hard links take no room; no command changes a published file.
        shutil.copytree(folder / "models" / "base", folder / "models" / model, copy_function=os.link)
    turns: dict[str, list[Done]] = {model: [] for model in _MODELS}
    for turn in range(repeats):
        # The order alternates, so that load that grows or falls favours none.
        for model in _MODELS[:: -1 if turn % 2 else 1]:
            shutil.rmtree(folder / "models" / model / "versions" / _NEW, ignore_errors=True)
            more = ("--delta", _BASE) if model == "delta" else ()
            turns[model].append(export(folder, "second", model, _NEW, *more))
    return turns


class ServeProcess:
    """Process of `ple-rec serve` with the version v1 of a model."""

    def __init__(self, folder: Path, model: str) -> None:
        self._latest = folder / "models" / model / "latest"
        self._point_to(_BASE)
        words = ["serve", str(self._latest.parent), "--port", "0", "--threads", "1"]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "ple_rec", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline().rpartition(":")[2])  # The line ends with the address.

    def take(self, version: str) -> Done:
        """Name a version in `latest`, and wait until the server answers by it; the peak is that of this time."""
        # This number resets VmHWM, the largest resident memory.
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", encoding="ascii")
        self._point_to(version)
        begun = time.perf_counter()
        self._process.send_signal(signal.SIGHUP)
        while self._served_version() != version:
            time.sleep(0.02)
        return Done(time.perf_counter() - begun, peak_bytes(self._process.pid))

    def resident_bytes(self) -> int:
        """Return the resident memory now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def _point_to(self, version: str) -> None:
        new = self._latest.with_name("latest.new")
        new.write_text(version, encoding="utf-8")
        new.replace(self._latest)

    def _served_version(self) -> str:
        connection = HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", "/v1/model")
        version = json.loads(connection.getresponse().read())["version"]
        connection.close()
        return str(version)


def reload_by_turns(folder: Path, repeats: int) -> tuple[dict[str, list[Done]], dict[str, list[int]]]:
    """Let a server of each model take v2 from v1; return the times, and the resident memory at v1 and v2."""
    takes: dict[str, list[Done]] = {model: [] for model in _MODELS}
    resident: dict[str, list[int]] = {}
    for turn in range(repeats):
        for model in _MODELS[:: -1 if turn % 2 else 1]:
            # A new process each time, so that its memory does not depend on earlier turns.
            server = ServeProcess(folder, model)
            try:
                before = server.resident_bytes()
                takes[model].append(server.take(_NEW))
                resident[model] = [before, server.resident_bytes()]
            finally:
                server.close()
            say(f"turn {turn + 1} of {repeats}: {model} {takes[model][-1].seconds:.2f} s, {resident[model]}")
    return takes, resident


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--rows", type=int, default=5_000_000, metavar="N", help="users; default 5 M")
    arguments.add_argument("--changed", type=float, default=0.02, metavar="SHARE", help="share of users; default .02")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step; default 4096")
    arguments.add_argument("--memory", default="4GiB", metavar="SIZE", help="memory of prep; default 4GiB")
    arguments.add_argument(
        "--folder", metavar="DIR", help="folder for datasets and runs, which stay there for the next call"
    )
    args = arguments.parse_args()
    with scratch_folder() if args.folder is None else nullcontext(args.folder) as name:
        folder = Path(name)
        if not (folder / "models" / "base").exists():
            train_runs(folder, args)
        exports = export_by_turns(folder, args.repeats)
        takes, resident = reload_by_turns(folder, args.repeats)
        sizes = {model: version_bytes(folder / "models" / model / "versions" / _NEW) for model in _MODELS}
        entry = described_delta(folder)
    heading = ("form of v2", "MB", "export s", "peak GiB", "server takes it s", "peak GiB", "resident GiB: v1, v2")
    rows: list[tuple[str, ...]] = [heading]
    for model in _MODELS:
        cells = [f"{sizes[model] / 1e6:,.1f}"]
        for turns in (exports[model], takes[model]):
            seconds = [done.seconds for done in turns]
            cells.append(f"{statistics.median(seconds):.2f} ({min(seconds):.2f} - {max(seconds):.2f})")
            cells.append(f"{max(done.peak_bytes for done in turns) / 2**30:.2f}")
        cells.append(", ".join(f"{size / 2**30:.2f}" for size in resident[model]))
        rows.append((model, *cells))
    lines = [*align_columns(rows), "", entry, *(f"{key}: {value}" for key, value in conditions(args).items())]
    sys.stdout.write("\n".join(lines) + "\n")
    if args.json is not None:
        record = {"conditions": conditions(args), "bytes": sizes, "exports": exports, "takes": takes}
        args.json.write_text(json.dumps(record) + "\n", encoding="utf-8")


def described_delta(folder: Path) -> str:
    """Return a line with the rows of the users' table, those that the delta changes, and its share."""
    version = folder / "models" / "delta" / "versions" / _NEW
    described = json.loads((version / "model.json").read_text(encoding="utf-8"))
    (users,) = (table for table in described["tables"] if table["name"] == "user_id")
    share = described["delta"]["share"]
    return f"users: {users['rows']:,} rows, {users['changed']:,} changed; share of the delta {share:.4f}"


if __name__ == "__main__":
    main()
