"""One rank acts, all ranks learn how it went, so that none waits for a peer that has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


class PeerError(Exception):
    """Raised on the ranks that wait while rank 0 fails; rank 0 raises, and prints, the error itself."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"rank 0 failed with exit code {exit_code}")
        self.exit_code = exit_code


def broadcast(value: T, group: dist.ProcessGroup | None = None) -> T:
    """The value of rank 0, on every rank (a collective)."""
    values = [value]
    dist.broadcast_object_list(values, src=0, group=group)
    return values[0]


def run_on_rank_zero(action: Callable[[], T], group: dist.ProcessGroup | None = None) -> T | None:
    """Run `action` on rank 0 alone (a collective); its result there, None elsewhere.

    Args:
        action: What to do.
        group: Of all ranks, for the collective; default: the default group.

    Raises:
        PeerError: on the other ranks, where it failed on rank 0.
    """
    failed: Exception | None = None
    result: T | None = None
    if dist.get_rank() == 0:
        try:
            result = action()
        except Exception as error:  # re-raised below, once the others know
            failed = error
    code = getattr(failed, "exit_code", 1) if failed is not None else 0
    code = broadcast(code, group)
    if failed is not None:
        raise failed
    if code:
        raise PeerError(code)
    return result
