"""Look-up, backward and update of the reference workload's sharded tables in GB, beside a copy of memory.

    python -m benchmarks.tables [--users N ...] [--ranks N]

A sample reads each of its rows in the forward pass, and reads and writes it in the update: three times dim x 4 bytes.
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
from benchmarks.harness import Pass, Way, parser, race, report, say, scratch, timed
from benchmarks.reference import Steps, open_context

# The data has this many batches per rank.
_BATCHES = 30


@contextmanager
def look_up(data: Path, args: argparse.Namespace) -> Iterator[Pass]:
    """Look up batches and update the tables by a gradient of ones."""
    overrides = (f"train.batch_size_per_rank={args.batch_size}", "embeddings.sharding=row_wise")
    with open_context(data, 1, *overrides) as job:
        steps = Steps(job)
        ids = sum(job.dataset.ids_per_sample(job.selection.sparse).values())
        sample_bytes = 3 * ids * job.config.embeddings.dim * torch.float32.itemsize

        batches = [steps.next_batch() for _ in range(_BATCHES)]

        def work() -> None:
            for step in range(args.steps):
                x_BD = job.bare.inputs(batches[step % _BATCHES])
                x_BD.backward(torch.ones_like(x_BD))
            job.ranks.watch.rest()

        yield lambda: timed(work, 1e-9 * sample_bytes * args.batch_size * args.steps)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=12)
    sizes = [100_000, 1_000_000, 10_000_000, FULL_USERS]
    arguments.add_argument("--users", type=int, nargs="+", default=sizes, metavar="N", help="rows of the users' table")
    arguments.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks of each way; default 2")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples a step and rank")
    arguments.add_argument("--steps", type=int, default=10, metavar="N", help="batches of a turn; default 10")
    args = arguments.parse_args()
    with scratch() as name:
        ways = []
        for users in args.users:
            say(f"writing a feed of {users:,} users")
            data = Path(name, str(users))
            write_feed(data, users, _BATCHES * args.batch_size * args.ranks)
            ways.append(Way(f"{users:,} users", partial(look_up, data, args), ranks=args.ranks))
        ways.append(Way("copy of memory", partial(limits.copy, 1), ranks=args.ranks, limit=True))
        report(args, "GB", ways, race(ways, args.repeats))


if __name__ == "__main__":
    main()
