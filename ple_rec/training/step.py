"""One training step: forward pass, backward pass and update of the parameters.

Shape suffixes: B batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from ple_rec.data.batch import Batch
from ple_rec.models.losses import StepLoss, loss_weights_BK
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.training.context import TrainContext
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.profiler.regions import NO_REGIONS, Regions


def train_step(
    context: TrainContext,
    guard: NonFiniteGuard,
    batch: Batch,
    step: int,
    weights_K: Sequence[float],
    *,
    stop: bool = False,
    save: bool = False,
    forward: Callable[[Batch, StepLoss], tuple[Tensor, Tensor]] | None = None,
    regions: Regions = NO_REGIONS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Train the model on one batch; every rank has to call this at the same step.

    Args:
        context: Context of the run.
        guard: Guard that checks losses and gradients for non-finite values. Its all-reduce of each step also sums the
            loss counts of all ranks, and tells all ranks about `stop` and `save`.
        batch: Batch of this rank, on its device.
        step: Number of steps done before this one.
        weights_K: Weight of each task's loss at this step, as the schedule of weights defines it.
        stop: True if this rank requests a stop.
        save: True if this rank requests a checkpoint.
        forward: Method `forward` of the batch feeder, which runs the model's forward pass and also prepares later
            batches; None to call the model directly.
        regions: Regions of the profiler, which times parts of a step.

    Returns:
        logits_BK of the batch; sums_K, the weighted sum of each task's losses on this rank; and counts_K, the sum of
        the sample weights in each of these sums.

    Raises:
        DivergedError: A loss or a gradient of an earlier step was not finite.
    """
    device = context.ranks.device
    weights_BK = loss_weights_BK(batch.in_space_BK, batch.weight_B)
    local_counts_K = weights_BK.sum(0)
    guard.start(local_counts_K, stop=stop, save=save)
    context.optimizers.prepare(step)
    # A copy from unpinned memory would make the host wait for the device.
    scheduled_K = torch.tensor(weights_K, pin_memory=device.type == "cuda").to(device, non_blocking=True)
    # `guard.counts_K` waits for the all-reduce that `guard.start` began, so it is called as late as possible. The
    # objective needs its result, and on a CPU the forward pass may need it before; `cache` makes it one call.
    counts = cache(guard.counts_K)

    def factors() -> Tensor:
        return loss_factors_K(context.unwrapped_model, counts(), scheduled_K, context.ranks.world_size)

    # The tables and the batch feeder open regions of their own inside this one; their time is not counted for this one.
    with regions("dense forward"):
        loss = StepLoss(context.losses, batch.labels_BK, weights_BK, factors)
        logits_BK, sums_K = (forward or context.model)(batch, loss)
    # On a CPU, the model may run backward passes during the forward pass; their time belongs to the backward region.
    regions.move("dense forward", "dense backward", loss.backward_seconds)
    total = objective(context.unwrapped_model, sums_K, counts(), scheduled_K, context.ranks.world_size)
    with regions("dense backward"):
        total.backward()
    with regions("gradient exchange"):
        context.optimizers.average_gradients()
    with regions("optimizers"):
        gradient_norm = context.optimizers.step()
    guard.record(step + 1, sums_K, gradient_norm)
    return logits_BK, sums_K, local_counts_K
