"""Stand-ins for the parts of `torch.cuda` that need a GPU, and for NCCL.

A stream does each operator as soon as it is called, so it keeps no order; a host that waits for one is recorded.
"""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # It compares functions of torch with its own, so it is imported before they are replaced.
import torch.distributed as dist
from torch import Tensor

from tests.gpu_proofs.fake_cuda.library import load
from tests.gpu_proofs.fake_cuda.tensors import DEVICE, DeviceTensor, record


class Stream:
    """Stream of the fake device."""

    def __init__(self, device: Any = DEVICE, priority: int = 0) -> None:
        self.device = torch.device(device)

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def synchronize(self) -> None:
        record("read", "Stream.synchronize")


class Event:
    """Event of a stream of the fake device."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        pass

    def record(self, stream: object = None) -> None:
        pass

    def elapsed_time(self, end: object) -> float:
        return 0.0

    def synchronize(self) -> None:
        record("read", "Event.synchronize")


def replace_cuda() -> None:
    """Make torch's Python code believe that there is a GPU, for the rest of the process."""
    stream, properties = Stream(), SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 << 30)
    for name, value in {
        "Event": Event,
        "Stream": Stream,
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: 8,
        "current_device": lambda: DEVICE.index,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "stream": lambda stream: nullcontext(),
        "max_memory_allocated": lambda device=None: 0,
        # The generator of the CPU draws the random numbers of the device.
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "cudart": _cuda_runtime,
        "synchronize": lambda device=None: record("read", "torch.cuda.synchronize"),
    }.items():
        setattr(torch.cuda, name, value)
    # `Module.to` would write a `DeviceTensor` into the object of a parameter on the CPU; so it makes a new parameter.
    is_compatible = torch._has_compatible_shallow_copy_type

    def is_compatible_on_device(input: Tensor, from_: Tensor) -> bool:
        return isinstance(input, DeviceTensor) == isinstance(from_, DeviceTensor) and is_compatible(input, from_)

    torch._has_compatible_shallow_copy_type = is_compatible_on_device
    # Gloo exchanges the values, which lie on the CPU.
    init_process_group = dist.init_process_group
    dist.init_process_group = lambda backend, **options: init_process_group("gloo", **options)


def _cuda_runtime() -> SimpleNamespace:
    """Return the functions of CUDA that pin memory which exists already."""
    library = load()
    library.pin_block.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    library.unpin_block.argtypes = [ctypes.c_size_t]
    return SimpleNamespace(
        cudaHostRegister=lambda address, size, flags: library.pin_block(address, size),
        cudaHostUnregister=library.unpin_block,
    )
