"""Time for which a synchronous and an asynchronous save stop training; the work is in GB of state.

    python -m benchmarks.checkpoint [--users N] [--ranks N] [--place DIR]

The third way is an asynchronous save until its checkpoint is complete, while training goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.feed import write_feed
from benchmarks.harness import Pass, PassResult, Way, parser, race, report, say, scratch, timed
from benchmarks.reference import Steps, open_context
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.storage import location
from ple_rec.training.finite import check_finite
from ple_rec.training.loop import save_checkpoint
from ple_rec.training.progress import Window
from ple_rec.training.state import TrainState

_BATCH_SIZE, _STEPS = 4096, 8


@contextmanager
def save(data: Path, where: str, *, asynchronous: bool, whole: bool) -> Iterator[Pass]:
    """Train a few steps, then save."""
    with open_context(data, 1, f"train.batch_size_per_rank={_BATCH_SIZE}") as job:
        store = CheckpointStore(location(where), keep=1, asynchronous=asynchronous)
        steps, window, numbers = Steps(job), Window(job.selection.tasks, job.ranks.device), itertools.count(1)

        def once() -> PassResult:
            steps.run(_STEPS)
            position = TrainState(step=next(numbers))

            def stop() -> None:
                dist.barrier()
                check_finite(job, position.step)
                save_checkpoint(job, store, position, window, best=False)

            def until_whole() -> None:
                stop()
                while _any(store.writing):
                    steps.run(1)

            done = timed(until_whole if whole else stop, 0)
            store.wait()
            job.ranks.watch.rest()
            return done._replace(amount=1e-9 * state_bytes / job.ranks.world_size)

        rows = job.dataset.schema.table_rows()
        # Row-wise Adagrad has one value per row.
        state_bytes = 4 * (job.config.embeddings.dim + 1) * sum(rows.values())
        yield once


def _any(flag: bool) -> bool:
    flags = torch.tensor(float(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repeats=6)
    arguments.add_argument("--users", type=int, default=5_000_000, metavar="N", help="rows of the users' table")
    arguments.add_argument("--ranks", type=int, default=2, metavar="N", help="ranks; default 2")
    arguments.add_argument("--place", metavar="DIR", help="where checkpoints go; default: a temporary folder")
    args = arguments.parse_args()
    with scratch() as name:
        say(f"writing a feed of {args.users:,} users")
        data = Path(name, "data")
        write_feed(data, args.users, 20 * _BATCH_SIZE * args.ranks)

        def way(title: str, *, limit: bool = False, asynchronous: bool = True, whole: bool = False) -> Way:
            where = f"{args.place or name}/{title.replace(' ', '-')}"
            make = partial(save, data, where, asynchronous=asynchronous, whole=whole)
            return Way(title, make, ranks=args.ranks, limit=limit)

        ways = [
            way("asynchronous"),
            way("asynchronous until whole", whole=True),
            way("synchronous", asynchronous=False, limit=True),
        ]
        report(args, "GB", ways, race(ways, args.repeats))


if __name__ == "__main__":
    main()
