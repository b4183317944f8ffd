"""Counts of the transfers between host and device, and of the collectives, that a block of code would make on a GPU.

On a GPU, the host waits for reads and for copies, but not for pinned copies:

    read          `tolist`, `item`, `bool`, `cpu`, `numpy`, and operators with as many results as values decide
    copy          numbers of the host become a tensor on a device, as by `torch.tensor(numbers, device=device)`
    pinned copy   such a copy from pinned memory

The calls are the same on a CPU. A dispatch mode counts those that call an operator; it also sees calls from C++. The
other functions (`tolist`, `numpy`, `cpu` and the copies) call no operator on a CPU, so they are replaced for the block.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ple_rec.distributed import sparse_prefetch
from ple_rec.distributed.sparse_prefetch import CudaStreams
from ple_rec.training import batch_feeder

# Readers of tensors that lie on the host when the model is on a GPU, each with the tensor.
_HOST_TENSORS = {
    "NonFiniteGuard._read": "`_host_buffer`, a pinned copy of the flags",
    "SplitTableBatchedEmbeddingBagsCodegen.forward": "FBGEMM's `iter_cpu`, the number of steps",
    "SplitTableBatchedEmbeddingBagsCodegen._generate_vbe_metadata": "FBGEMM's `feature_dims`",
}
# Functions that stand between a transfer and the code that asks for it.
_HELPERS = {"_safe_tolist", "_safe_tolist_2d", "_pin_and_move", "_cuda_to_cpu_safe"}
# Operators that read the device: `item`, `bool`, `int` and `float` call the first.
_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
_TORCH = str(Path(torch.__file__).parent) + "/"


@dataclass
class Transfers:
    """Transfers of a block of code, by the function that makes them.

    Args:
        reads: Reads of the device.
        copies: Copies to the device from memory that is not pinned.
        pinned_copies: Copies to the device from pinned memory.
        host_reads: Reads of tensors that lie on the host also when the model is on a GPU.
        collectives: Collectives by name.
        streams: Reads and copies by the CUDA stream for which they would wait.
    """

    reads: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    pinned_copies: Counter[str] = field(default_factory=Counter)
    host_reads: Counter[str] = field(default_factory=Counter)
    collectives: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    stream: str = field(default="default", repr=False)

    def count_read(self) -> None:
        """Count a read by the calling code."""
        caller = _caller()
        if caller in _HOST_TENSORS:
            self.host_reads[caller] += 1
        else:
            self.reads[caller] += 1
            self.streams[self.stream] += 1

    def count_copy(self, *, pinned: bool) -> None:
        """Count a copy to the device by the calling code."""
        (self.pinned_copies if pinned else self.copies)[_caller()] += 1
        if not pinned:
            self.streams[self.stream] += 1


class _Operators(TorchDispatchMode):
    """Mode that counts collectives and operators that read the device."""

    def __init__(self, transfers: Transfers) -> None:
        super().__init__()
        self._transfers = transfers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if name == "aten::index" else []
        if name in _READS or masks:
            self._transfers.count_read()
        elif name.startswith("c10d::"):
            self._transfers.collectives[name.removeprefix("c10d::").strip("_")] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_transfers(streams: CudaStreams | None = None) -> Iterator[Transfers]:
    """Return a context that counts the transfers of this thread in its block.

    Args:
        streams: Streams of the batch feeder that runs in the block; None if it has none.
    """
    transfers = Transfers()

    def read(_: Any, *args: Any, **kwargs: Any) -> None:
        transfers.count_read()

    def new(result: Tensor, *_: Any, device: Any = None, pin_memory: bool | None = None, **__: Any) -> None:
        if device is not None and result.numel():
            transfers.count_copy(pinned=False)
        # On a CPU `pin_memory` is False, but only code that pins memory on a GPU passes it at all.
        result.host_memory = "pageable" if pin_memory is None else "pinned"  # type: ignore[attr-defined]

    def move(_: Tensor, source: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> None:
        memory = getattr(source, "host_memory", None)
        if memory is not None and any(isinstance(x, torch.device | str) for x in (*args, *kwargs.values())):
            helpers = {frame.f_code.co_name for frame in _frames()}
            transfers.count_copy(pinned=non_blocking and (memory == "pinned" or "_pin_and_move" in helpers))

    with ExitStack() as stack:
        for owner, names, count in (
            (Tensor, ("tolist", "numpy", "cpu"), read),
            (torch, ("tensor", "as_tensor", "from_numpy"), new),
            (Tensor, ("to",), move),
        ):
            for name in names:
                stack.enter_context(_counted(owner, name, count))
        if streams is not None:
            stack.enter_context(_named_streams(streams, transfers))
        stack.enter_context(_Operators(transfers))
        yield transfers


def _counted(owner: Any, name: str, count: Callable[..., None]) -> Any:
    """Return a patch of a function that calls `count` with the result and the arguments, in this thread alone."""
    original, thread = getattr(owner, name), threading.get_ident()

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if threading.get_ident() == thread:
            count(result, *args, **kwargs)
        return result

    return patch.object(owner, name, call)


@contextmanager
def _named_streams(streams: CudaStreams, transfers: Transfers) -> Iterator[None]:
    """Return a context that notes in `transfers` which stream the code would use on a GPU.

    On a CPU all streams are None; in the block they are their names.
    """

    @contextmanager
    def on_stream(stream: str | None) -> Iterator[None]:
        before, transfers.stream = transfers.stream, stream or transfers.stream
        yield
        transfers.stream = before

    with ExitStack() as stack:
        for name in vars(streams):
            stack.enter_context(patch.object(streams, name, name))
        for module in (sparse_prefetch, batch_feeder):
            stack.enter_context(patch.object(module, "on_stream", on_stream))
            stack.enter_context(patch.object(module, "wait_for_stream", lambda stream, *tensors: None))
        yield


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _caller() -> str:
    """Return the name of the innermost function that belongs neither to torch nor to the helpers."""
    for frame in _frames():
        code = frame.f_code
        is_counter = code.co_filename in (__file__, "<string>")
        if is_counter or code.co_filename.startswith(_TORCH) or code.co_name in _HELPERS or code.co_name[0] == "<":
            continue
        return code.co_qualname
    raise AssertionError("all calls come from torch")
