"""What metrics exchange between ranks: sums, one value of every rank, and the rows of all ranks.

Everything travels in all-reduces, each rank's part in its own place among zeros. So rows of unequal numbers need no
padding, which a gather would, and every rank has the same bits.

Shapes: W ranks, N rows of this rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def rank_and_world(group: ProcessGroup | None) -> tuple[int, int]:
    """Return this rank and the number of ranks of `group`; 0 and 1 where there is no process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def all_reduce(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the sum of `tensor` (overwritten) over the ranks of `group`; itself where there is no process group."""
    if rank_and_world(group)[1] > 1:
        dist.all_reduce(tensor, group=group)
    return tensor


def in_own_place(own: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return (W, ...): this rank's value in its place, zeros in those of the others, so that the sum has all."""
    rank, world = rank_and_world(group)
    all_W = own.new_zeros(world, *own.shape)
    all_W[rank] = own
    return all_W


def gathered(own: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return (W, ...): the value of every rank, all of one shape; a collective."""
    return all_reduce(in_own_place(own, group), group)


def joined(own_N: Tensor, rows_W: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """Return the rows of all ranks, one behind the other; a collective.

    Args:
        own_N: Rows of this rank.
        rows_W: Number of rows of each rank.
        group: Process group of the ranks.
    """
    rank, world = rank_and_world(group)
    if world == 1:
        return own_N
    start = sum(rows_W[:rank])
    whole = own_N.new_zeros(sum(rows_W), *own_N.shape[1:])
    whole[start : start + len(own_N)] = own_N
    return all_reduce(whole, group)
