"""Actions of rank 0 whose outcome all ranks learn, so that none waits for a peer that has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


class PeerError(Exception):
    """Error on the ranks that wait while rank 0 fails; rank 0 raises and prints the cause."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"rank 0 failed with exit code {exit_code}")
        self.exit_code = exit_code


def broadcast(value: T, group: dist.ProcessGroup | None = None) -> T:
    """Return the value of rank 0 on every rank (a collective)."""
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
    """
    failure: Exception | None = None
    result: T | None = None
    if dist.get_rank() == 0:
        try:
            result = action()
        # The error is raised once the other ranks know of it.
        except Exception as error:
            failure = error
    code = getattr(failure, "exit_code", 1) if failure is not None else 0
    code = broadcast(code, group)
    if failure is not None:
        raise failure
    if code:
        raise PeerError(code)
    return result
