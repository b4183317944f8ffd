"""`ple-rec train` itself, from Parquet and with metrics on, which is stopped while others have their turn.

python -m benchmarks.peers.ours WORKLOAD.json

A turn lets it go on, and reads `train.jsonl`: what counts are whole windows of the report that begin and end within
the turn, by the run's own clock.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Done, Ready, peak_bytes_of, serve
from benchmarks.peers.workload import Workload

REPORT_EVERY = 5  # steps; what a user reads comes every 100, so that this counts against us
_POLL_SECONDS = 0.01
_NEVER = 1_000_000_000


class Train:
    """A run that goes on only within `turn`.

    Args:
        command: That trains.
        log: Its `train.jsonl`.
        batch_size: Samples of a step.
    """

    def __init__(self, command: Sequence[str], log: Path, batch_size: int) -> None:
        self.batch_size, self._log, self._read = batch_size, log, 0
        self._log.unlink(missing_ok=True)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            self._records(1)  # the model stands, and has taken its first steps
            self._stop()
        except BaseException:
            self.close()
            raise

    def turn(self, steps: int) -> Done:
        """At least so many steps, after a window that does not count: it began before."""
        windows = -(-steps // REPORT_EVERY)
        self._signal(signal.SIGCONT)
        records = self._records(1 + windows)
        self._stop()
        first, last = records[0], records[-1]
        return Done((last["step"] - first["step"]) * self.batch_size, last["seconds"] - first["seconds"])

    def peak_bytes(self) -> int:
        """Of all its processes together."""
        return sum(peak_bytes_of(process) for process in self.processes())

    def close(self) -> None:
        """End it: nothing is to be saved."""
        processes = self.processes()
        self._signal(signal.SIGKILL)
        self._process.wait()
        while any(is_running(process) for process in processes):
            time.sleep(_POLL_SECONDS)

    def _records(self, count: int) -> list[dict[str, Any]]:
        """The next records of the log, once they are there."""
        while True:
            lines = self._log.read_bytes().split(b"\n")[:-1] if self._log.exists() else []
            if len(lines) >= self._read + count:
                records = [json.loads(line) for line in lines[self._read :]]
                self._read = len(lines)
                return records
            if self._process.poll() is not None:
                raise RuntimeError(f"ple-rec train ended with {self._process.returncode}")
            time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        while any(is_running(process) for process in self.processes()):
            time.sleep(_POLL_SECONDS)
        self._read = len(self._log.read_bytes().split(b"\n")) - 1  # a report that came meanwhile

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def processes(self) -> list[int]:
        """The run and all that it has started, the parents first."""
        found = [self._process.pid]
        for process in found:
            with suppress(OSError):
                for task in Path(f"/proc/{process}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found


def is_running(process: int) -> bool:
    """Whether a process is neither stopped nor gone."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "TtZ"


def command(work: Workload, run_dir: Path) -> list[str]:
    """That trains the workload for ever."""
    settings = {
        "data.path": work.dataset,
        "train.epochs": "",
        "train.steps": _NEVER,
        "train.report_every": REPORT_EVERY,
        "train.evaluate_every": _NEVER,
        "train.precision": work.precision,
        "runtime.device": "cpu",
        "runtime.threads": work.threads,
        "runtime.timeout_seconds": 24 * 3600.0,  # it stands still for long, and nobody is to miss it
    }
    words = [sys.executable, "-m", "ple_rec", "train", "--config", "bench-feed", "--overwrite"]
    words += ["--run-dir", str(run_dir)]
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def make(work: Workload) -> Ready:
    """The run, stopped after its first steps."""
    run_dir = Path(work.folder) / "ours"
    shutil.rmtree(run_dir, ignore_errors=True)
    train = Train(command(work, run_dir), run_dir / "train.jsonl", work.batch_size)
    return Ready({"train": train.turn}, ("torch", "torchrec", "fbgemm-gpu-cpu"), train.peak_bytes, train.close)


def _end(*_: object) -> None:
    raise SystemExit(143)  # so that the run ends too


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(serve(lambda: make(Workload.read(Path(sys.argv[1])))))
