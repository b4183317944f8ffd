"""Asynchronous saving of checkpoints: training stops only while the state is copied to host memory.

`Stager` makes the copy. `BackgroundRunner` runs the function that writes the copy in a thread, while training goes on.
"""

from __future__ import annotations

import copy
import sys
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.cuda._pin_memory_utils import pin_memory, unpin_memory
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensorBase
from torch.distributed._shard.sharding_spec import ShardMetadata

from ple_rec.runtime.threads import on_current_device


class Stager:
    """Host-memory buffers that hold a copy of this rank's part of the training state.

    A buffer is reused by every save, as long as the tensor under the same key keeps its shape and dtype. So the buffers
    together have the size of the state on this rank.

    Buffers for GPU tensors are pinned (page-locked), since a copy from a GPU into pinned memory is faster. They are
    allocated as ordinary memory and pinned afterwards. `torch.empty(pin_memory=True)` would round each size up to a
    power of two, which can take almost twice the memory. A buffer is unpinned before its memory is freed. Otherwise
    the GPU would still read the freed pages when a later tensor has other pages at the same address.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def stage(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of `state`. Its tensors share the buffers of the previous copy, which is overwritten.

        Args:
            state: Nested dictionaries, lists and tuples of tensors and other values.
        """
        staged: dict[str, Any] = self._copy("", state)
        # The copies from the GPU are asynchronous.
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return staged

    def _copy(self, key: str, value: Any) -> Any:
        """Return a copy of a value of the state; `key` is its path in the state, and identifies its buffers."""
        if isinstance(value, ShardedTensor):
            shards = [
                Shard(self._buffered(f"{key}#{i}", shard.tensor), _without_device(shard.metadata))
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
        """Copy a tensor into its buffer, which is created if there is none that fits, and return the buffer."""
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty(value.shape, dtype=value.dtype)
            if value.is_cuda and buffer.numel():
                pin_memory(buffer.data_ptr(), buffer.nbytes)
                # The end of the process unpins all memory; CUDA may then no longer answer.
                weakref.finalize(buffer, unpin_memory, buffer.data_ptr()).atexit = False
            self._buffers[key] = buffer
        return buffer.copy_(value.detach(), non_blocking=True)


def _without_device(metadata: ShardMetadata) -> ShardMetadata:
    """Return the place of a shard in its table without its device, since the copy lies in the host's memory."""
    return ShardMetadata(metadata.shard_offsets, metadata.shard_sizes)


class BackgroundRunner:
    """Runner of one function at a time, which writes a checkpoint, in a background thread.

    The constructor is a collective: every rank must call it, since it creates a process group with the gloo backend.
    The function in the thread uses this group, so its collectives cannot be confused with those of the training step.

    Args:
        timeout_seconds: Time in seconds for which a collective of this group waits for another rank.

    Attributes:
        group: Process group for the collectives of the function.
    """

    def __init__(self, timeout_seconds: float) -> None:
        timeout = timedelta(seconds=timeout_seconds)
        self.group: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=timeout)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def pending(self) -> bool:
        """True from the call of `start` until `wait` has returned, even if the function has ended before."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """True while the thread is running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, function: Callable[[], None]) -> None:
        """Run a function in a new thread. `wait` must have been called after the previous function."""
        assert self._thread is None

        def run() -> None:
            try:
                function()
            except BaseException as error:
                # `wait` raises the error in the thread that calls it.
                self._error = error

        self._thread = threading.Thread(target=on_current_device(run), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the function has returned, if one was started; raise its error if it raised one."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait until the function has returned; print its error to stderr if it raised one."""
        try:
            self.wait()
        except Exception as error:  # The process is ending, and has an error or a result of its own to tell.
            sys.stderr.write(f"ple-rec: the last checkpoint was not written: {error}\n")
