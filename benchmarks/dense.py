"""Rate of the reference workload's dense layers in GFLOP/s, beside the fastest matrix product on this machine.

A step is their forward pass, backward pass and update. The time of the update counts, its operations do not.

    python -m benchmarks.dense [--precision P]

Shape suffixes: B batch, D width of the model's input, K tasks.
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
from benchmarks.harness import BenchmarkCase, Pass, parser, race, report, scratch_folder, time_work
from benchmarks.reference import open_context
from ple_rec.models.losses import StepLoss
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.models.weighting import task_weights
from ple_rec.runtime.host import usable_cores

# Number of users of the dataset. Any number does, since the steps read no table.
_USERS = 100_000
# A step has the FLOPs of three forward passes: one for the forward pass itself, one for the gradients with respect to
# inputs, and one for those with respect to weights.
_FORWARD_PASSES_PER_STEP = 3
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@contextmanager
def open_dense_layers(data: Path, args: argparse.Namespace) -> Iterator[Pass]:
    """Build everything but the tables, and yield a function that times `args.steps` steps of it.

    A step is the forward and backward pass of dense layers and losses, and the update of the dense parameters. A random
    tensor stands for the embeddings and dense features that the model would get.
    """
    overrides = (f"train.batch_size_per_rank={args.batch_size}", f"train.precision={args.precision}")
    with open_context(data, args.threads, *overrides) as job:
        width = sum(job.unwrapped_model.widths_by_feature.values()) + len(job.selection.dense)
        shape = (args.batch_size, len(job.tasks))
        x_BD = (0.1 * torch.randn(args.batch_size, width)).requires_grad_()
        labels_BK, weights_BK = torch.randint(2, shape).float(), torch.ones(shape)
        # `scheduled_K` has the weights of the tasks' losses at step 0.
        counts_K, scheduled_K = weights_BK.sum(0), torch.tensor(task_weights(job.tasks, 0))

        # Derivative of the objective by each task's sum of losses, which blocks on a CPU need in the forward pass.
        def factors_K() -> Tensor:
            return loss_factors_K(job.unwrapped_model, counts_K, scheduled_K)

        def steps() -> None:
            for _ in range(args.steps):
                job.optimizers.prepare(0)
                x_BD.grad = None
                loss = StepLoss(job.losses, labels_BK, weights_BK, factors_K)
                _, sums_K = job.unwrapped_model.train_score(x_BD, loss)
                objective(job.unwrapped_model, sums_K, counts_K, scheduled_K).backward()
                job.optimizers.step()

        gflop = 1e-9 * _FORWARD_PASSES_PER_STEP * job.unwrapped_model.flops_per_sample() * args.batch_size * args.steps
        yield lambda: time_work(steps, gflop)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--threads", type=int, default=usable_cores(), metavar="N", help="default: one per core")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step")
    arguments.add_argument("--precision", choices=list(_DTYPES), default="fp32", help="default fp32")
    arguments.add_argument("--steps", type=int, default=4, metavar="N", help="steps of a turn; default 4")
    args = arguments.parse_args()
    with scratch_folder() as name:
        data = Path(name, "data")
        write_feed(data, _USERS, args.batch_size)
        product = partial(limits.fastest_matrix_product, _DTYPES[args.precision], args.threads)
        cases = [
            BenchmarkCase("dense layers", partial(open_dense_layers, data, args)),
            BenchmarkCase("fastest matrix product", product, is_baseline=True),
        ]
        report(args, "GFLOP", cases, race(cases, args.repeats))


if __name__ == "__main__":
    main()
