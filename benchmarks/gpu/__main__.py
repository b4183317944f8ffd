"""Ten minutes of one GPU: what only a GPU can show, in the order of its value, as a page to bring back.

    python -m benchmarks.gpu [--data DIR] [--out DIR] [--device cpu]

The dataset is prepared before the clock starts; prepare it elsewhere to spare the machine these minutes, and give it by
`--data`:

    ple-rec prep tencent-synthetic --rows 2000000 --out DIR

The stages run one after the other in a process of their own, which is started again after a failure. No stage starts
once `--seconds` seconds have passed, and one that takes too long is ended. `--out` has `page.md`, which is written as
the results come: devices, versions, driver, and for each stage its outcome, its seconds, its numbers, and what the plan
says beside them; `log.txt` has all output, and traces and the calibration lie beside it. The exit code is 0 if all
stages passed, 5 if one failed, and 2 if torch sees no GPU. `--device cpu` rehearses the stages on a machine without a
GPU; its numbers say nothing about GPUs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.gpu.page import StageResult, write_page
from benchmarks.gpu.stage import STAGES, TOTAL_SECONDS, Stage, StageSettings
from benchmarks.gpu.worker import StageFailedError, StageWorker
from ple_rec.errors import UserError

SOME_FAILED = 5  # Exit code if a stage has failed.


class SmokeRun:
    """Stages that ran so far, and the time that they took.

    Args:
        settings: Settings of the stages.
        seconds: Seconds for all stages together.
    """

    def __init__(self, settings: StageSettings, seconds: float) -> None:
        self._settings, self._seconds = settings, seconds
        self._seconds_spent = self._seconds_scheduled = 0.0
        self._worker = StageWorker(settings.out / "log.txt")
        self.results: list[StageResult] = []

    def run(self, stage: Stage) -> StageResult:
        """Run a stage if there is time left, and write the page."""
        result = StageResult(stage)
        self.results.append(result)
        self._seconds_scheduled += stage.seconds * self._seconds / TOTAL_SECONDS
        if self._seconds_spent >= self._seconds:
            result.outcome, result.summary = "left out", f"no time left of {self._seconds:.0f} s"
            self._write()
            return result
        # A stage may use the time that earlier stages have left, and has its own share if they have left none.
        seconds = max(self._seconds_scheduled - self._seconds_spent, stage.seconds * self._seconds / TOTAL_SECONDS)
        started = time.monotonic()
        sys.stderr.write(f"{stage.name} ...\n")
        try:
            for message in self._worker.run(stage, self._settings, seconds):
                if message.kind == "end":
                    result.outcome, result.summary = "ok", message.text
                else:
                    result.lines.append(message.text)
                result.seconds = time.monotonic() - started
                self._write()
        except StageFailedError as error:
            result.outcome, result.summary, result.log_lines = "FAILED", str(error), error.log_lines
            result.is_refusal = error.is_refusal
        result.seconds = time.monotonic() - started
        self._seconds_spent += result.seconds
        self._write()
        sys.stderr.write(f"{stage.name}: {result.outcome} {result.seconds:.0f} s {result.summary}\n")
        return result

    def close(self) -> None:
        """End the process of the stages."""
        self._worker.close()

    def _write(self) -> None:
        device = "one GPU" if self._settings.device == "cuda" else "a rehearsal on a CPU"
        write_page(self._settings.out / "page.md", f"Ten minutes of {device}", self.results)


def prepare_data(folder: Path, rows: int) -> None:
    """Write the dataset, if it is not there yet.

    Raises:
        CalledProcessError: `ple-rec prep` has failed.
    """
    if (folder / "_SUCCESS").exists():
        return
    sys.stderr.write(f"preparing {rows:,} rows in {folder}; the clock stands still\n")
    command = ("-m", "ple_rec", "prep", "tencent-synthetic", "--rows", str(rows), "--out", str(folder), "--overwrite")
    subprocess.run([sys.executable, *command], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages, write the page, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset directory; default: prepared in --out")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-smoke"), metavar="DIR")
    parser.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="rows of the dataset; default 2 M")
    parser.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step; default 4096")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="steps of the longest training")
    parser.add_argument("--only", metavar="TEXT", default="", help="run the stages whose names have this text")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, metavar="S", help="seconds of all stages")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    data = args.data or args.out / "data"
    settings = StageSettings(args.device, data.absolute(), args.out.absolute(), args.batch_size, args.steps)
    with closing(SmokeRun(settings, args.seconds)) as run:
        first = run.run(STAGES[0])
        if first.is_refusal:
            sys.stderr.write(f"{first.summary}\n")
            return UserError.exit_code
        prepare_data(data, args.rows)
        for stage in STAGES[1:]:
            if args.only in stage.name:
                run.run(stage)
    sys.stdout.write((args.out / "page.md").read_text(encoding="utf-8"))
    return SOME_FAILED if any(result.outcome == "FAILED" for result in run.results) else 0


if __name__ == "__main__":
    sys.exit(main())
