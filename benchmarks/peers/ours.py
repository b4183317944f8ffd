"""`ple-rec train` itself, from Parquet and with metrics. The run stands still while others have their turn.

python -m benchmarks.peers.ours WORKLOAD.json
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

from benchmarks.peers.protocol import Ready, TurnResult, serve
from benchmarks.peers.workload import Workload
from benchmarks.reference import TrainRun, settings, train_command


def make(work: Workload) -> Ready:
    """Start the run, and stop it after its first steps."""
    run_dir = Path(work.folder) / "ours"
    shutil.rmtree(run_dir, ignore_errors=True)
    command = train_command(run_dir, settings(work.dataset, work.threads, f"train.precision={work.precision}"))
    run = TrainRun(command, run_dir / "train.jsonl", work.batch_size)

    def turn(steps: int) -> TurnResult:
        samples, seconds, _ = run.turn(steps)
        return TurnResult(int(samples), seconds)

    return Ready({"train": turn}, ("torch", "torchrec", "fbgemm-gpu-cpu"), run.peak_bytes, run.close)


def _end(*_: object) -> None:
    # `serve` then closes the contender, which ends the training run, too.
    raise SystemExit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(serve(lambda: make(Workload.read(Path(sys.argv[1])))))
