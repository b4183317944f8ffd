"""Rate of look-up, backward pass and update of the reference workload's sharded tables, beside a copy of memory.

    python -m benchmarks.tables [--users N ...] [--ranks N]

Rates are in GB/s. Each table row of a sample is read in the forward pass, and read and written in the update: three
times dim x 4 bytes.

Shape suffixes: B batch, D width of the model's input.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks import limits
from benchmarks.feed import FULL_USERS, write_feed
from benchmarks.harness import BenchmarkCase, Pass, parser, race, report, say, scratch_folder, time_work
from benchmarks.reference import Steps, open_context

# Number of batches per rank in the dataset, which are looked up again and again.
_BATCHES = 30


@contextmanager
def look_up(data: Path, args: argparse.Namespace) -> Iterator[Pass]:
    """Look up batches in each pass, and update the tables by a gradient of ones."""
    overrides = (f"train.batch_size_per_rank={args.batch_size}", "embeddings.sharding=row_wise")
    with open_context(data, 1, *overrides) as job:
        steps = Steps(job)
        ids = sum(job.dataset.ids_per_sample(job.selection.sparse).values())
        sample_bytes = 3 * ids * job.config.embeddings.dim * torch.float32.itemsize

        batches = [steps.next_batch() for _ in range(_BATCHES)]

        def work() -> None:
            for step in range(args.steps):
                x_BD = job.unwrapped_model.inputs(batches[step % _BATCHES])
                x_BD.backward(torch.ones_like(x_BD))
            job.ranks.watch.suspend()  # The time until the next turn must not count as a hang.

        yield lambda: time_work(work, 1e-9 * sample_bytes * args.batch_size * args.steps)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=12)
    sizes = [100_000, 1_000_000, 10_000_000, FULL_USERS]
    arguments.add_argument("--users", type=int, nargs="+", default=sizes, metavar="N", help="rows of the users' table")
    arguments.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks of each case; default 2")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples per step and rank")
    arguments.add_argument("--steps", type=int, default=10, metavar="N", help="batches of a turn; default 10")
    args = arguments.parse_args()
    with scratch_folder() as name:
        cases = []
        for users in args.users:
            say(f"writing a feed of {users:,} users")
            data = Path(name, str(users))
            write_feed(data, users, _BATCHES * args.batch_size * args.ranks)
            cases.append(BenchmarkCase(f"{users:,} users", partial(look_up, data, args), ranks=args.ranks))
        cases.append(
            BenchmarkCase("copy of memory", partial(limits.memory_copy, 1), ranks=args.ranks, is_baseline=True)
        )
        report(args, "GB", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
