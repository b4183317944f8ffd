"""Gain from request features (`data.request_features`): those that all samples of a request share are computed once.

    python -m benchmarks.requests [--impressions N ...]

The reference workload is trained, and then only predicts, in turn with and without request features, for each number
of impressions per request.

Shape suffix: K tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from benchmarks.feed import SHARED_FEATURES, write_feed
from benchmarks.harness import BenchmarkCase, Pass, parser, race, report, say, scratch_folder, time_work
from benchmarks.reference import open_context
from ple_rec.models.weighting import task_weights
from ple_rec.runtime.host import usable_cores
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.step import train_step

_USERS, _BATCHES = 100_000, 3


@contextmanager
def open_work(data: Path, args: argparse.Namespace, *, with_request_features: bool, training: bool) -> Iterator[Pass]:
    """Train or predict in each pass, on a few batches again and again.

    Args:
        data: Dataset directory whose requests have several rows.
        args: Arguments of the benchmark.
        with_request_features: True to compute features that the rows of a request share once per request; False to
            compute them for each row.
        training: True to train, False to predict.
    """
    features = ", ".join(f'"{name}"' for name in SHARED_FEATURES) if with_request_features else ""
    overrides = (f"train.batch_size_per_rank={args.batch_size}", f"data.request_features=[{features}]")
    with open_context(data, args.threads, *overrides) as job:
        # This loader keeps the order of the files, in which the rows of a request stand together.
        with closing(job.evaluation_loader("train").epoch(0)) as loaded:
            batches = list(islice(loaded, _BATCHES))
        guard = NonFiniteGuard([task.name for task in job.selection.tasks], job.ranks.device)
        weights_K = task_weights(job.tasks, 0)
        job.model.train(training)

        def steps() -> None:
            for step in range(args.steps):
                if training:
                    train_step(job, guard, batches[step % _BATCHES], step, weights_K)
                else:
                    with torch.no_grad():
                        job.model(batches[step % _BATCHES])
            job.ranks.watch.suspend()  # The time until the next turn must not count as a hang.

        yield lambda: time_work(steps, args.batch_size * args.steps)


def main() -> None:
    """Measure and print, for each size of a request."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--impressions", type=int, nargs="+", default=[1, 10, 50], metavar="N", help="rows of a request"
    )
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step")
    arguments.add_argument("--steps", type=int, default=6, metavar="N", help="steps of a turn; default 6")
    args = arguments.parse_args()
    for impressions in args.impressions:
        say(f"{impressions} impression(s) a request")
        with scratch_folder() as name:
            data = Path(name, "data")
            write_feed(data, _USERS, _BATCHES * args.batch_size, impressions)
            for training, verb in ((True, "training"), (False, "prediction")):
                cases = [
                    BenchmarkCase(
                        f"{verb}, {impressions} a request",
                        partial(open_work, data, args, with_request_features=True, training=training),
                    ),
                    BenchmarkCase(
                        "without",
                        partial(open_work, data, args, with_request_features=False, training=training),
                        is_baseline=True,
                    ),
                ]
                report(args, "samples", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
