"""Gain from computing the features that all samples of a request share only once (`data.request_features`).

    python -m benchmarks.requests [--impressions N ...]

Training and prediction of the reference workload, by turns with and without request features, at one request size.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from benchmarks.feed import SHARED, write_feed
from benchmarks.harness import Pass, Way, parser, race, report, say, scratch, timed
from benchmarks.reference import open_context
from ple_rec.models.weighting import task_weights
from ple_rec.runtime.host import usable_cores
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.step import train_step

_USERS, _BATCHES = 100_000, 3


@contextmanager
def work(data: Path, args: argparse.Namespace, *, shared: bool, training: bool) -> Iterator[Pass]:
    """Train or predict on the same few batches again and again."""
    features = ", ".join(f'"{name}"' for name in SHARED) if shared else ""
    overrides = (f"train.batch_size_per_rank={args.batch_size}", f"data.request_features=[{features}]")
    with open_context(data, args.threads, *overrides) as job:
        with closing(job.evaluation_loader("train").epoch(0)) as read:
            batches = list(islice(read, _BATCHES))
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
            job.ranks.watch.rest()

        yield lambda: timed(steps, args.batch_size * args.steps)


def main() -> None:
    """Measure and print, for each size of a request."""
    arguments = parser(__doc__)
    arguments.add_argument("--impressions", type=int, nargs="+", default=[1, 10, 50], metavar="N", help="of a request")
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one a core")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step")
    arguments.add_argument("--steps", type=int, default=6, metavar="N", help="steps of a turn; default 6")
    args = arguments.parse_args()
    for impressions in args.impressions:
        say(f"{impressions} impression(s) a request")
        with scratch() as name:
            data = Path(name, "data")
            write_feed(data, _USERS, _BATCHES * args.batch_size, impressions)
            for training, verb in ((True, "training"), (False, "prediction")):
                ways = [
                    Way(f"{verb}, {impressions} a request", partial(work, data, args, shared=True, training=training)),
                    Way("without", partial(work, data, args, shared=False, training=training), limit=True),
                ]
                report(args, "samples", ways, race(ways, args.repeats))


if __name__ == "__main__":
    main()
