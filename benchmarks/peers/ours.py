"""`ple-rec train` itself, from Parquet and with metrics on, which is stopped while others have their turn.

python -m benchmarks.peers.ours WORKLOAD.json
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

from benchmarks.peers.protocol import Done, Ready, serve
from benchmarks.peers.workload import Workload
from benchmarks.reference import TrainRun, settings, train_command


def make(work: Workload) -> Ready:
    """Start the run, and stop it after its first steps."""
    run_dir = Path(work.folder) / "ours"
    shutil.rmtree(run_dir, ignore_errors=True)
    command = train_command(run_dir, settings(work.dataset, work.threads, f"train.precision={work.precision}"))
    run = TrainRun(command, run_dir / "train.jsonl", work.batch_size)

    def turn(steps: int) -> Done:
        samples, seconds, _ = run.turn(steps)
        return Done(int(samples), seconds)

    return Ready({"train": turn}, ("torch", "torchrec", "fbgemm-gpu-cpu"), run.peak_bytes, run.close)


def _end(*_: object) -> None:
    raise SystemExit(143)  # so that the run ends too


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(serve(lambda: make(Workload.read(Path(sys.argv[1])))))
