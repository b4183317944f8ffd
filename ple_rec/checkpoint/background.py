"""Saves beside training: a copy of the state in host memory, and the thread that writes it."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.cuda._pin_memory_utils import pin_memory
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensorBase


class Stager:
    """Copies states of one structure, again and again into the same memory: as much as this rank's part takes.

    The buffers of a GPU's state are pinned where they lie, so that its copies run at the speed of the link. Torch's own
    pinned memory comes in powers of two, up to twice as much.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def stage(self, state: dict[str, Any]) -> dict[str, Any]:
        """A copy of `state`; one that was made before is overwritten."""
        staged: dict[str, Any] = self._copy("", state)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return staged

    def _copy(self, key: str, value: Any) -> Any:
        if isinstance(value, ShardedTensor):
            shards = [
                Shard(self._buffered(f"{key}#{i}", shard.tensor), shard.metadata)
                for i, shard in enumerate(value.local_shards())
            ]
            return ShardedTensorBase._init_from_local_shards_and_global_metadata(
                shards, value.metadata(), value.sharding_spec()
            )
        if isinstance(value, Tensor):
            return self._buffered(key, value)
        if isinstance(value, dict):
            return {name: self._copy(f"{key}.{name}", item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(f"{key}[{i}]", item) for i, item in enumerate(value))
        return copy.deepcopy(value)

    def _buffered(self, key: str, value: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty(value.shape, dtype=value.dtype)
            if value.is_cuda and buffer.numel():
                pin_memory(buffer.data_ptr(), buffer.nbytes)
            self._buffers[key] = buffer
        return buffer.copy_(value.detach(), non_blocking=True)


class Background:
    """One piece of work at a time, in a thread; made by all ranks together (a collective).

    Its group is of gloo, whatever the default group is: its collectives never mix with those of the training step.

    Args:
        timeout_seconds: For which its collectives wait for another rank.
    """

    def __init__(self, timeout_seconds: float) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        self.group: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    @property
    def pending(self) -> bool:
        """Whether there is work that `wait` has not seen the end of."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin; `wait` must have seen the end of what was begun before."""
        assert self._thread is None

        def run() -> None:
            try:
                work()
            except BaseException as error:  # raised by `wait`
                self._failed = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the work is done; raises what it raised."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def close(self) -> None:
        """`wait`; what the work raised is said and not raised."""
        try:
            self.wait()
        except Exception as error:
            sys.stderr.write(f"ple-rec: the last checkpoint was not written: {error}\n")
