"""Weights and optimizer state that are not finite, found before they are evaluated or saved."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from ple_rec.distributed.sharding import local_shards
from ple_rec.errors import DivergedError
from ple_rec.training.context import TrainContext

_DENSE, _STATE = "the dense layers", "the optimizer state of "
_SHOWN = 4  # places that a message names


def check_finite(job: TrainContext, step: int) -> None:
    """Refuse to evaluate or to save weights or optimizer state that are not finite (a collective).

    Losses and dense gradients are known to be finite when a step ends, but its update may still overflow: a row that no
    later batch looks up shows it to nobody, and row-wise Adagrad never moves a row again whose state is infinite. Every
    value is read once.

    Args:
        job: The run.
        step: Step that has just finished.

    Raises:
        DivergedError: on every rank, where a value of any rank is not finite; it names the tables.
    """
    tables = [f"table {table.table}" for table in job.plan.tables]
    places = [*tables, _DENSE, *(f"{_STATE}{name}" for name in (*tables, _DENSE))]
    bad = {place: [torch.zeros((), dtype=torch.bool, device=job.ranks.device)] for place in places}
    for place, tensor in _local(job):
        if tensor.is_floating_point() and tensor.numel():
            ends = torch.stack(torch.aminmax(tensor))  # without a temporary tensor; NaN is both of its ends
            bad[place].append(~torch.isfinite(ends).all().to(job.ranks.device))
    flags = torch.stack([torch.stack(each).any() for each in bad.values()]).float()
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    found = [place for place, flag in zip(places, flags.tolist(), strict=True) if flag]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise DivergedError(
            f"step {step}",
            f"values of {', '.join(found[:_SHOWN])}{more} are not finite after its update",
            "no checkpoint is written of it",
            "train again with a smaller learning rate or a warm-up, and look at the inputs",
        )


def _local(job: TrainContext) -> Iterator[tuple[str, Tensor]]:
    """Place and values of every weight and state that this rank holds."""
    for table, values, *_ in local_shards(job.model):
        yield f"table {table}", values
    for parameter in job.optimizers.dense_parameters:
        yield _DENSE, parameter.detach()
    for key, states in job.optimizers.combined.state_dict()["state"].items():
        for state in states.values():
            if isinstance(state, ShardedTensor):
                for piece in state.local_shards():
                    yield f"{_STATE}table {key.split('.')[-2]}", piece.tensor
            elif isinstance(state, Tensor):
                yield f"{_STATE}{_DENSE}", state
