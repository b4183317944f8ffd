"""Counts of the transfers between host and device, and of the collectives, that a block of code would make on a GPU.

On a GPU, the host waits for reads and for copies, but not for pinned copies:

    read          `tolist`, `item`, `bool`, `cpu`, `numpy`, and operators whose result has a shape that depends on
                  values, such as `nonzero`
    copy          numbers of the host become a tensor on a device, as by `torch.tensor(numbers, device=device)`
    pinned copy   such a copy from pinned (page-locked) memory

The code makes the same calls on a CPU, where they are counted. A dispatch mode counts the calls of operators, which may
come from C++, too. The other functions (`tolist`, `numpy`, `cpu` and the copies) call no operator on a CPU, so they are
replaced in the block by functions that count.
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

# Functions that read a tensor which lies on the host even if the model is on a GPU, with this tensor.
_HOST_TENSORS = {
    "NonFiniteGuard._read": "`_host_buffer`, a pinned copy of the flags",
    "SplitTableBatchedEmbeddingBagsCodegen.forward": "FBGEMM's `iter_cpu`, the number of steps",
    "SplitTableBatchedEmbeddingBagsCodegen._generate_vbe_metadata": "FBGEMM's `feature_dims`",
}
# Functions of TorchRec that only pass a transfer on. The transfer is counted for their caller.
_HELPERS = {"_safe_tolist", "_safe_tolist_2d", "_pin_and_move", "_cuda_to_cpu_safe"}
# Operators for which the host reads the device. `item`, `bool`, `int` and `float` call the first.
_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
_TORCH = str(Path(torch.__file__).parent) + "/"


@dataclass
class Transfers:
    """Transfers of a block of code, by the function that makes them.

    Args:
        reads: Reads of tensors on the device, for which the host waits.
        copies: Copies to the device from memory that is not pinned.
        pinned_copies: Copies to the device from pinned memory.
        reads_of_host_tensors: Reads of tensors that lie on the host even if the model is on a GPU (`_HOST_TENSORS`).
        collectives: Number of collectives by name, not by function.
        streams: Number of `reads` and `copies` by the name of the CUDA stream for which the host would wait.
        stream: Name of the stream that is current now.
    """

    reads: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    pinned_copies: Counter[str] = field(default_factory=Counter)
    reads_of_host_tensors: Counter[str] = field(default_factory=Counter)
    collectives: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    stream: str = field(default="default", repr=False)

    def count_read(self) -> None:
        """Count a read by the calling code."""
        caller = _caller()
        if caller in _HOST_TENSORS:
            self.reads_of_host_tensors[caller] += 1
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

    def count_read(_: Any, *args: Any, **kwargs: Any) -> None:
        transfers.count_read()

    def count_new_tensor(
        result: Tensor, *_: Any, device: Any = None, pin_memory: bool | None = None, **__: Any
    ) -> None:
        if device is not None and result.numel():
            transfers.count_copy(pinned=False)
        # Code that pins memory on a GPU passes `pin_memory=False` on a CPU, and other code does not pass the argument.
        # So any value of it means memory that is pinned on a GPU.
        result.host_memory = "pageable" if pin_memory is None else "pinned"  # type: ignore[attr-defined]

    def count_move(_: Tensor, source: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> None:
        memory = getattr(source, "host_memory", None)
        if memory is not None and any(isinstance(x, torch.device | str) for x in (*args, *kwargs.values())):
            helpers = {frame.f_code.co_name for frame in _frames()}
            transfers.count_copy(pinned=non_blocking and (memory == "pinned" or "_pin_and_move" in helpers))

    with ExitStack() as stack:
        for owner, names, count in (
            (Tensor, ("tolist", "numpy", "cpu"), count_read),
            (torch, ("tensor", "as_tensor", "from_numpy"), count_new_tensor),
            (Tensor, ("to",), count_move),
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
    """Return a context that sets `transfers.stream` to the stream that the code would use on a GPU.

    On a CPU, all fields of `streams` are None. In the block, the value of each field is its name.
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
    """Yield the calls of this thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _caller() -> str:
    """Return the name of the innermost function that belongs neither to torch, to `_HELPERS` nor to this file."""
    for frame in _frames():
        code = frame.f_code
        is_counter = code.co_filename in (__file__, "<string>")
        if is_counter or code.co_filename.startswith(_TORCH) or code.co_name in _HELPERS or code.co_name[0] == "<":
            continue
        return code.co_qualname
    raise AssertionError("all calls come from torch")
