"""Ten minutes of one GPU: what only a GPU can show, in the order of its value, as a page to bring back.

    python -m benchmarks.gpu [--data DIR] [--out DIR] [--device cpu]

The dataset is prepared before the clock starts; prepare it elsewhere to spare the machine these minutes, and give it by
`--data`:

    ple-rec prep tencent-synthetic --rows 2000000 --out DIR

The stages run one after the other in a process of their own, which is started again after a failure. No stage starts
once `--seconds` seconds have passed, and one that takes too long is ended. `--out` has `page.md`, which is written as
the results come: devices, versions, driver, and for each stage its outcome, its seconds, its numbers, and what the plan
says beside them; `log.txt` has all output, and traces and the calibration lie beside it. The exit code is 0 if all
stages passed, 5 if one failed, and 2 if torch sees no GPU or the dataset cannot be prepared. `--device cpu` rehearses
the stages on a machine without a GPU; its numbers say nothing about GPUs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.gpu.run import SmokeRun
from benchmarks.gpu.stage import STAGES, TOTAL_SECONDS, StageSettings
from ple_rec.errors import UserError

SOME_FAILED = 5  # Exit code if a stage has failed.


def prepare_data(folder: Path, rows: int) -> None:
    """Write the dataset, if it is not there yet.

    Raises:
        UserError: `ple-rec prep` has failed.
    """
    if (folder / "_SUCCESS").exists():
        return
    sys.stderr.write(f"preparing {rows:,} rows in {folder}; the clock stands still\n")
    command = ("-m", "ple_rec", "prep", "tencent-synthetic", "--rows", str(rows), "--out", str(folder), "--overwrite")
    # Only the page is printed on standard output.
    code = subprocess.run([sys.executable, *command], check=False, stdout=sys.stderr).returncode
    if code != 0:
        raise UserError(
            f"--data {folder}",
            f"`ple-rec prep` has ended with exit code {code}, and its message stands above",
            "the stages read a dataset, which is prepared if it is not there",
            "name a dataset directory, or a new or empty folder",
        )


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
    parser.add_argument(
        "--steps", type=int, default=200, metavar="N", help="steps of the longest training; default 200"
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="run the stages whose names have this text")
    parser.add_argument(
        "--seconds",
        type=float,
        default=TOTAL_SECONDS,
        metavar="S",
        help="seconds of all stages; their shares shrink alike; default 600",
    )
    args = parser.parse_args(arguments)
    names = [stage.name for stage in STAGES]
    if not any(args.only in name for name in names):
        parser.error(f"--only {args.only}: no stage has this text in its name; the stages are: {'; '.join(names)}")
    args.out.mkdir(parents=True, exist_ok=True)
    data = args.data or args.out / "data"
    settings = StageSettings(args.device, data.absolute(), args.out.absolute(), args.batch_size, args.steps)
    with closing(SmokeRun(settings, args.seconds)) as run:
        first = run.run(STAGES[0])
        if first.is_refusal:
            sys.stderr.write(f"{first.summary}\n")
            return UserError.exit_code
        try:
            prepare_data(data, args.rows)
        except UserError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
        for stage in STAGES[1:]:
            if args.only in stage.name:
                run.run(stage)
    sys.stdout.write((args.out / "page.md").read_text(encoding="utf-8"))
    return SOME_FAILED if any(result.outcome == "FAILED" for result in run.results) else 0


if __name__ == "__main__":
    sys.exit(main())
