"""Our contender in the race against other training libraries: `ple-rec train`, paused while others take their turns.

Its time includes reading Parquet and computing metrics.

python -m benchmarks.peers.ours WORKLOAD.json
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

from benchmarks.peers.protocol import ReadyContender, TurnResult, serve
from benchmarks.peers.workload import Workload
from benchmarks.reference import TrainRun, run_overrides, train_command


def start_run(work: Workload) -> ReadyContender:
    """Start the training process, which pauses after its first steps; each turn resumes it for some steps."""
    run_dir = Path(work.folder) / "ours"
    shutil.rmtree(run_dir, ignore_errors=True)
    command = train_command(run_dir, run_overrides(work.dataset, work.threads, f"train.precision={work.precision}"))
    # Starts the process, and waits for its first steps.
    run = TrainRun(command, run_dir / "train.jsonl", work.batch_size)

    def run_turn(steps: int) -> TurnResult:
        samples, seconds, _ = run.run_turn(steps)
        return TurnResult(int(samples), seconds)

    return ReadyContender({"train": run_turn}, ("torch", "torchrec", "fbgemm-gpu-cpu"), run.peak_bytes, run.close)


def _end(*_: object) -> None:
    # After this exception `serve` closes the contender, which ends the training run, too.
    raise SystemExit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(serve(lambda: start_run(Workload.read(Path(sys.argv[1])))))
