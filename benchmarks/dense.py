"""Dense layers of the reference workload, forward and backward, in GFLOP, beside the fastest matrix product.

    python -m benchmarks.dense [--precision P]

Shape suffixes: B batch, D width of x, K tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import limits
from benchmarks.feed import write_feed
from benchmarks.harness import Pass, Way, parser, race, report, scratch, timed
from benchmarks.reference import open_context
from ple_rec.models.losses import StepLoss
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.models.weighting import task_weights
from ple_rec.runtime.host import usable_cores

# The size of the tables does not matter, since nothing is looked up.
_USERS = 100_000
# A step has the FLOPs of three forward passes: forward, backward by inputs, and backward by weights.
_TRAINED = 3
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@contextmanager
def dense(data: Path, args: argparse.Namespace) -> Iterator[Pass]:
    """Run the part of a step between the forward and the backward pass of the tables, on random inputs."""
    overrides = (f"train.batch_size_per_rank={args.batch_size}", f"train.precision={args.precision}")
    with open_context(data, args.threads, *overrides) as job:
        width, tasks = sum(job.bare.columns.values()) + len(job.selection.dense), len(job.tasks)
        x_BD = (0.1 * torch.randn(args.batch_size, width)).requires_grad_()
        labels_BK, weights_BK = torch.randint(2, (args.batch_size, tasks)).float(), torch.ones(args.batch_size, tasks)
        counts_K, scheduled_K = weights_BK.sum(0), torch.tensor(task_weights(job.tasks, 0))

        def factors_K() -> Tensor:
            return loss_factors_K(job.bare, counts_K, scheduled_K)

        def steps() -> None:
            for _ in range(args.steps):
                job.optimizers.prepare(0)
                x_BD.grad = None
                loss = StepLoss(job.losses, labels_BK, weights_BK, factors_K)
                _, sums_K = job.bare.train_score(x_BD, loss)
                objective(job.bare, sums_K, counts_K, scheduled_K).backward()
                job.optimizers.step()

        gflop = 1e-9 * _TRAINED * job.bare.flops_per_sample() * args.batch_size * args.steps
        yield lambda: timed(steps, gflop)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one a core")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step")
    arguments.add_argument("--precision", choices=list(_DTYPES), default="fp32", help="default fp32")
    arguments.add_argument("--steps", type=int, default=4, metavar="N", help="steps of a turn; default 4")
    args = arguments.parse_args()
    with scratch() as name:
        data = Path(name, "data")
        write_feed(data, _USERS, args.batch_size)
        product = partial(limits.gemm, _DTYPES[args.precision], args.threads)
        ways = [
            Way("dense layers", partial(dense, data, args)),
            Way("fastest matrix product", product, limit=True),
        ]
        report(args, "GFLOP", ways, race(ways, args.repeats))


if __name__ == "__main__":
    main()
