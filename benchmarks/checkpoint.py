"""Rate of synchronous and asynchronous saves of a checkpoint, in GB of table state per second of the save.

The table state is the weights of the embedding tables and their optimizer's state. A synchronous save stops training
until the checkpoint is complete, an asynchronous one only until the state is copied. Only the time for which training
stops counts.

    python -m benchmarks.checkpoint [--users N] [--ranks N] [--place DIR]

In a further case, "asynchronous until complete", the time of an asynchronous save counts until its checkpoint is
complete, while training goes on.
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
from benchmarks.harness import BenchmarkCase, Pass, PassResult, parser, race, report, say, scratch_folder, time_work
from benchmarks.reference import Steps, open_context
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.storage import location
from ple_rec.training.finite import check_finite
from ple_rec.training.loop import save_checkpoint
from ple_rec.training.progress import ReportWindow
from ple_rec.training.state import TrainState

_BATCH_SIZE, _STEPS = 4096, 8


@contextmanager
def open_save(data: Path, where: str, *, asynchronous: bool, until_complete: bool) -> Iterator[Pass]:
    """Train a few steps in each pass, and then save a checkpoint; only the save is timed.

    Args:
        data: Dataset directory.
        where: Path or address of the folder of checkpoints.
        asynchronous: True for asynchronous saves.
        until_complete: True to time an asynchronous save until the checkpoint is complete; False to time only the part
            for which training stops.
    """
    with open_context(data, 1, f"train.batch_size_per_rank={_BATCH_SIZE}") as job:
        store = CheckpointStore(location(where), keep=1, asynchronous=asynchronous)
        steps, window, step_numbers = (
            Steps(job),
            ReportWindow(job.selection.tasks, job.ranks.device),
            itertools.count(1),
        )

        def train_and_save() -> PassResult:
            steps.run(_STEPS)
            position = TrainState(step=next(step_numbers))

            def begin_save() -> None:
                dist.barrier()
                check_finite(job, position.step)
                save_checkpoint(job, store, position, window, best=False)

            def save_and_train() -> None:
                begin_save()
                while _is_true_on_any_rank(store.writing):
                    steps.run(1)

            done = time_work(save_and_train if until_complete else begin_save, 0)
            store.wait()
            job.ranks.watch.suspend()  # The time until the next pass must not count as a hang.
            # The harness adds up the amounts of all ranks, so each rank returns its share of the state.
            return done._replace(amount=1e-9 * state_bytes / job.ranks.world_size)

        rows = job.dataset.schema.table_rows()
        # Row-wise Adagrad has one value per row.
        state_bytes = 4 * (job.config.embeddings.dim + 1) * sum(rows.values())
        yield train_and_save


def _is_true_on_any_rank(flag: bool) -> bool:
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
    with scratch_folder() as name:
        say(f"writing a feed of {args.users:,} users")
        data = Path(name, "data")
        # The dataset has the samples of 20 steps; `Steps` reads them epoch after epoch.
        write_feed(data, args.users, 20 * _BATCH_SIZE * args.ranks)

        def make_case(
            title: str, *, is_baseline: bool = False, asynchronous: bool = True, until_complete: bool = False
        ) -> BenchmarkCase:
            where = f"{args.place or name}/{title.replace(' ', '-')}"
            open_pass = partial(open_save, data, where, asynchronous=asynchronous, until_complete=until_complete)
            return BenchmarkCase(title, open_pass, ranks=args.ranks, is_baseline=is_baseline)

        cases = [
            make_case("asynchronous"),
            make_case("asynchronous until complete", until_complete=True),
            make_case("synchronous", asynchronous=False, is_baseline=True),
        ]
        report(args, "GB", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
