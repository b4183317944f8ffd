"""A copy of a run's state in host memory, from which a thread writes while training goes on."""

from __future__ import annotations

import copy
from typing import Any

import torch
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
