"""Tensors that pretend to lie on a GPU, while their values lie on the CPU, for tests on machines without a GPU.

A `DeviceTensor` reports the device `DEVICE`, so torch and the project take their code path for a GPU: autocast, fused
kernels, the lookups of FBGEMM, pinned (page-locked) memory. Operators compute its values on the CPU. So the host can
read every value, and a run has the results of a run on the CPU.

`FakeDevice` records each event at which a GPU differs from a CPU (`Kind`), with its place in the code.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten = torch.ops.aten
# The device of this rank, as torchrun numbers it.
DEVICE = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
# read: The host waits until the device has computed a value, or the shape of a result.
# copy: The host waits for a copy to the device, since the source is not pinned or `non_blocking` is False.
# mixed: An operator gets tensors of both devices, and each tensor on the CPU is a scalar (of no dimension) or an index.
# If another tensor lies on the CPU, torch raises an error on a GPU, and so does the fake device.
Kind = Literal["read", "copy", "mixed"]
_COPIES = (aten._to_copy.default, aten.copy_.default)
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
# Torch's tags of operators during which the host reads a value of the device, or the shape of the result.
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# These operators of FBGEMM have no such tag. Each takes the size of its result as an optional argument, named here, and
# reads the size from the device if the caller does not pass it.
_SIZES = {"permute_2D_sparse_data": "permuted_lengths_sum", "permute_1D_sparse_data": "permuted_lengths_sum"}
_PACKAGES = ("/ple_rec/", "/torchrec/", "/fbgemm_gpu/")


@dataclass(frozen=True)
class Event:
    """Operator for which the host waits on a GPU, or which gets tensors of both devices.

    Args:
        kind: Kind of the event.
        phase: Phase of the run, one of the values of `FakeDevice.phases`; "other" outside these phases.
        place: File and function of the project, of TorchRec or of FBGEMM that called the operator, such as
            "ple_rec/training/step.py: train_step"; "backward pass" if autograd called it.
        operator: Name of the operator.
    """

    kind: Kind
    phase: str
    place: str
    operator: str


class DeviceTensor(Tensor):
    """Tensor on the fake device.

    Attributes:
        host: Tensor on the CPU with the values.
    """

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> Self:
        tensor: Self = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=DEVICE,
        )
        tensor.host = host
        return tensor

    # Results are then what `_call` returns. By default, torch would turn them into objects of this class once more.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _call(func, args, kwargs or {})

    def as_subclass(self, cls: Any) -> Any:
        """Return the tensor as an object of a tensor class of TorchRec. Torch's own method takes plain tensors only."""
        tensor = DeviceTensor.__new__(_on_device(cls), self.host)
        return tensor.requires_grad_(self.requires_grad)

    def tolist(self) -> Any:
        """Return the values as lists. Torch's own method takes plain tensors only."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Raise the error that torch raises for a tensor on a GPU."""
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu()")

    def record_stream(self, stream: Any) -> None:
        """Do nothing, since each operator has ended when its call returns."""

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.host!r})"


@cache
def _on_device(cls: type) -> Any:
    """Return a subclass of a tensor class that is also a `DeviceTensor`."""
    return type(cls)(cls.__name__, (cls, DeviceTensor), {})


class FakeDevice(TorchDispatchMode):
    """Mode in which an operator that makes a tensor on a CUDA device makes a `DeviceTensor`.

    Args:
        phases: Phase of the run for each function that begins one, by its qualified name, such as "Trainer._report". An
            event gets the phase of the innermost of these functions that is being called. The name "backward pass"
            stands for all calls by autograd.

    Attributes:
        events: Events since the mode began.
    """

    def __init__(self, phases: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.phases = phases or {}
        self.events: list[Event] = []

    def __enter__(self) -> Self:
        _modes.append(self)
        # `torch.tensor(values, device="cuda")` then fills a tensor on the CPU and calls an operator that copies it.
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        _modes.remove(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def record(self, kind: Kind, operator: object) -> None:
        """Record an event that happens now."""
        place = _place()
        names = [*(frame.f_code.co_qualname for frame in _frames()), place]
        phase = next((self.phases[name] for name in names if name in self.phases), "other")
        self.events.append(Event(kind, phase, place, str(operator)))


_modes: list[FakeDevice] = []


def record(kind: Kind, operator: object) -> None:
    """Record an event that happens now, if a `FakeDevice` is active."""
    for mode in _modes:
        mode.record(kind, operator)


def _frames() -> list[FrameType]:
    """Return the calls of this thread, the innermost first."""
    frames, frame = [], sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        frames.append(frame)
    return frames


def _place() -> str:
    """Return file and function of the innermost call from the project, from TorchRec or from FBGEMM."""
    for frame in _frames():
        file, function = frame.f_code.co_filename, frame.f_code.co_qualname
        for package in _PACKAGES:
            # This method of a mode of torch only passes the call of an operator on, so it is not the caller.
            if package in file and not function.endswith("__torch_function__"):
                return f"{package[1:]}{file.rpartition(package)[2]}: {function}"
    return "elsewhere" if threading.current_thread() is threading.main_thread() else "backward pass"


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operator on the CPU, and return a `DeviceTensor` where the result would lie on a GPU."""
    values, spec = tree_flatten((args, kwargs))
    inputs = {id(value.host): value for value in values if isinstance(value, DeviceTensor)}
    target = kwargs.get("device")
    on_device = bool(inputs) if target is None else torch.device(target).type == "cuda"
    if func in _COPIES:
        on_device = _check_copy(func, args, kwargs)
    elif inputs:
        _check(func, args, [value for value in values if isinstance(value, Tensor)])
    host_args, host_kwargs = tree_unflatten([_on_host(value) for value in values], spec)
    if func.name().endswith("_pt2_wrapper"):
        host_args = _lookup_arguments(func, host_args)
    result = func(*host_args, **host_kwargs)

    def to_device(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        # An operator that changes a tensor in place has to return this tensor, not a new one.
        return inputs[id(value)] if id(value) in inputs else DeviceTensor(value)

    return tree_map(to_device, result) if on_device else result


def _on_host(value: Any) -> Any:
    """Return the argument that an operator on the CPU gets in place of `value`."""
    if isinstance(value, DeviceTensor):
        return value.host
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value


def _lookup_arguments(func: Any, args: Sequence[Any]) -> list[Any]:
    """Return the arguments with which FBGEMM's kernel for CPUs does what its kernel for GPUs would do.

    FBGEMM passes tables, and the state of their optimizer, as `dev_weights` or `momentum1_dev` if they lie on a GPU,
    and as `uvm_weights` or `momentum1_uvm` if they lie in the host's memory; the other of the two is empty. Its kernel
    for CPUs reads `host_weights` and `momentum1_host`.
    """
    # Arguments at the end may be left out, since they have defaults.
    by_name = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    for name in by_name:
        if "host" in name:
            on_gpu, in_host_memory = (by_name[name.replace("host", place)] for place in ("dev", "uvm"))
            by_name[name] = on_gpu if on_gpu.numel() else in_host_memory
    return list(by_name.values())


def _check_copy(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Record a copy that the host waits for; return True if its result lies on the device."""
    if func is aten.copy_.default:
        target, source = args[:2]
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        to_device, pinned = isinstance(target, DeviceTensor), target.is_pinned()
    else:
        source, device = args[0], kwargs.get("device")
        non_blocking = kwargs.get("non_blocking", False)
        to_device = isinstance(source, DeviceTensor) if device is None else torch.device(device).type == "cuda"
        pinned = False
    from_device = isinstance(source, DeviceTensor)
    if from_device and not to_device and not (non_blocking and pinned):
        record("read", func)
    if to_device and source.device.type == "cpu" and not (non_blocking and source.is_pinned()):
        record("copy", func)
    return to_device


def _check(func: Any, args: Any, tensors: Sequence[Tensor]) -> None:
    """Record that the host reads a value for an operator, or that the operator gets tensors of both devices.

    Raises:
        RuntimeError: A tensor on the CPU is neither a scalar nor an index.
    """
    indices = [index for index in args[1] if index is not None] if func in _INDEXING else []
    for tensor in tensors:
        if isinstance(tensor, DeviceTensor):
            continue
        is_index = isinstance(args[0], DeviceTensor) and any(tensor is index for index in indices)
        if tensor.dim() and not is_index:
            shapes = [(each.device.type, *each.shape) for each in tensors]
            raise RuntimeError(f"{func} has tensors of two devices, {shapes}; called by {_place()}")
        record("mixed", func)
    if indices:
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        # Torch writes a single value wherever the mask is True. Only for several values does the host read how many
        # places that are.
        reads = bool(masks) and (func is aten.index.Tensor or args[2].numel() > 1)
    else:
        reads = bool(_READS & set(func.tags)) or _reads_size(func, args)
    if reads:
        record("read", func)


def _reads_size(func: Any, args: Any) -> bool:
    """Return True if an operator of `_SIZES` reads the size of its result, since the caller has not passed it."""
    size = _SIZES.get(func.name().removeprefix("fbgemm::"))
    names = [argument.name for argument in func._schema.arguments]
    return size is not None and dict(zip(names, args, strict=False)).get(size) is None
