"""Collectives for what rank 0 alone knows or does.

`broadcast` gives a value of rank 0 to every rank. `run_on_rank_zero` runs an action there, and tells every rank whether
the action failed, so that no rank waits for rank 0 in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


class PeerError(Exception):
    """Error that the other ranks raise if an action fails on rank 0. Rank 0 itself raises the error of the action."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"rank 0 failed with exit code {exit_code}")
        self.exit_code = exit_code


def broadcast(value: T, group: dist.ProcessGroup | None = None) -> T:
    """Return on every rank the `value` that rank 0 passes (a collective). The value is pickled."""
    values = [value]
    dist.broadcast_object_list(values, src=0, group=group)
    return values[0]


def run_on_rank_zero(action: Callable[[], T], group: dist.ProcessGroup | None = None) -> T | None:
    """Run `action` on rank 0 alone (a collective); return its result there and None elsewhere.

    Args:
        action: Function without arguments.
        group: Process group of all ranks; None for the default group.

    Raises:
        PeerError: The action failed on rank 0, and this is another rank.
        Exception: The action raised it, and this is rank 0.
    """
    failure: Exception | None = None
    result: T | None = None
    if dist.get_rank() == 0:
        try:
            result = action()
        except Exception as error:
            # Raised only after the broadcast below, since the other ranks would wait in it.
            failure = error
    code = getattr(failure, "exit_code", 1) if failure is not None else 0
    code = broadcast(code, group)
    if failure is not None:
        raise failure
    if code:
        raise PeerError(code)
    return result
