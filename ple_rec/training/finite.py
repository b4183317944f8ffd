"""Check that weights and optimizer state are finite before the model is evaluated or saved.

The check reports places: a table, the dense layers together, or the optimizer state of one of these.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from ple_rec.distributed.sharding import local_shards
from ple_rec.errors import DivergedError
from ple_rec.training.context import TrainContext

# Place of all dense layers, and prefix of the places of optimizer state.
_DENSE, _STATE = "the dense layers", "the optimizer state of "
# Greatest number of places that a message names.
_MOST_SHOWN = 4


def check_finite(context: TrainContext, step: int) -> None:
    """Raise an error if a weight or a value of the optimizer state is not finite on any rank (a collective).

    When a step ends, its losses and dense gradients have been checked already, but the update itself may overflow. If
    the overflow is in a row of a table that no later batch looks up, no later loss reveals it. And row-wise Adagrad
    never changes a row again once its state is infinite. The check therefore reads all values.

    Args:
        context: Context of the run.
        step: Number of steps done.

    Raises:
        DivergedError: A value is not finite on some rank. All ranks raise this error, which names up to four places.
    """
    tables = [f"table {table.table}" for table in context.plan.tables]
    places = [*tables, _DENSE, *(f"{_STATE}{name}" for name in (*tables, _DENSE))]
    flags_by_place = {place: [torch.zeros((), dtype=torch.bool, device=context.ranks.device)] for place in places}
    for place, tensor in _local_tensors(context):
        if tensor.is_floating_point() and tensor.numel():
            # `isfinite` would need a temporary tensor of the table's size; `aminmax` does not, and returns NaN twice if
            # any value is NaN.
            extremes = torch.stack(torch.aminmax(tensor))
            flags_by_place[place].append(~torch.isfinite(extremes).all().to(context.ranks.device))
    flags = torch.stack([torch.stack(place_flags).any() for place_flags in flags_by_place.values()]).float()
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    damaged = [place for place, flag in zip(places, flags.tolist(), strict=True) if flag]
    if damaged:
        more = f" and {len(damaged) - _MOST_SHOWN} more" if len(damaged) > _MOST_SHOWN else ""
        raise DivergedError(
            f"step {step}",
            f"values of {', '.join(damaged[:_MOST_SHOWN])}{more} are not finite after its update",
            "no checkpoint of this step is written",
            "train again with a smaller learning rate or a warm-up, and look at the inputs",
        )


def _local_tensors(context: TrainContext) -> Iterator[tuple[str, Tensor]]:
    """Yield the place and the values of each tensor of weights or optimizer state on this rank."""
    for table, values, *_ in local_shards(context.model):
        yield f"table {table}", values
    for parameter in context.optimizers.dense_parameters:
        yield _DENSE, parameter.detach()
    for key, states in context.optimizers.combined.state_dict()["state"].items():
        for state in states.values():
            if isinstance(state, ShardedTensor):
                # The key of a table's parameter ends in `.<table>.weight`.
                for shard in state.local_shards():
                    yield f"{_STATE}table {key.split('.')[-2]}", shard.tensor
            elif isinstance(state, Tensor):
                yield f"{_STATE}{_DENSE}", state
