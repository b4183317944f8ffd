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


def on_main(action: Callable[[], T]) -> T | None:
    """Run `action` on rank 0 alone (a collective); its result there, None elsewhere.

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
    codes = [code]
    dist.broadcast_object_list(codes, src=0)
    if failed is not None:
        raise failed
    if codes[0]:
        raise PeerError(codes[0])
    return result
