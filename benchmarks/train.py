"""Rate of `ple-rec train` on the reference workload, from Parquet to updated weights.

    python -m benchmarks.train [--users N ...] [--ranks N] [--precision P]

One rank with all threads trains with each size of the users' table (46,926,000 is the paper's), and `--ranks` ranks
that share the threads train with the first size. The rates come from the run's own reports.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.feed import write_feed
from benchmarks.harness import BenchmarkCase, Pass, parser, race, report, say, scratch_folder
from benchmarks.reference import TrainRun, run_overrides, train_command
from ple_rec.runtime.host import usable_cores

# The dataset has the samples of this many steps; the run reads them epoch after epoch.
_STEPS_WRITTEN = 50


@contextmanager
def train(folder: Path, users: int, ranks: int, args: argparse.Namespace) -> Iterator[Pass]:
    """Train at least `args.steps` steps in each pass."""
    overrides = run_overrides(
        folder / f"data-{users}",
        max(1, args.threads // ranks),
        f"train.batch_size_per_rank={args.batch_size}",
        f"train.precision={args.precision}",
    )
    run_dir = folder / f"run-{users}-{ranks}"
    command = train_command(run_dir, overrides, ranks)
    with closing(TrainRun(command, run_dir / "train.jsonl", ranks * args.batch_size)) as run:
        yield lambda: run.run_turn(args.steps)


def main() -> None:
    """Measure and print."""
    args = _arguments().parse_args()
    with scratch_folder() as name:
        folder = Path(name)
        for users in args.users:
            say(f"writing a feed of {users:,} users")
            write_feed(folder / f"data-{users}", users, _STEPS_WRITTEN * args.batch_size * max(args.ranks, 1))
        shapes = [(users, 1) for users in args.users]
        if args.ranks > 1:
            shapes.append((args.users[0], args.ranks))
        cases = [
            BenchmarkCase(
                f"{users:,} users, {ranks} rank(s)", partial(train, folder, users, ranks, args), is_baseline=i == 0
            )
            for i, (users, ranks) in enumerate(shapes)
        ]
        report(args, "samples", cases, race(cases, args.repeats))


def _arguments() -> argparse.ArgumentParser:
    arguments = parser(__doc__, repeats=8)
    arguments.add_argument("--users", type=int, nargs="+", default=[100_000, 5_000_000], metavar="N")
    arguments.add_argument("--ranks", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples per step and rank")
    arguments.add_argument("--precision", default="fp32", help="fp32, bf16 or auto; default fp32")
    arguments.add_argument("--steps", type=int, default=10, metavar="N", help="steps of a turn; default 10")
    return arguments


if __name__ == "__main__":
    main()
