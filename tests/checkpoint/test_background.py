"""Copies for saves beside training: pinned buffers are unpinned before their memory is freed; the thread has a GPU."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ple_rec.checkpoint import background
from ple_rec.checkpoint.background import BackgroundRunner, Stager
from ple_rec.config.run import RuntimeConfig
from ple_rec.distributed.process_group import process_group
from tests.runtime.cuda_threads import record_device_selections


class OnGpu(torch.Tensor):
    """Tensor that says of itself that it lies on a GPU."""

    is_cuda = True


class Registry:
    """Addresses that are registered with CUDA, in place of the library's own list."""

    def __init__(self, stager: Stager) -> None:
        self.stager = stager
        self.storages: dict[int, StorageWeakRef] = {}
        self.bytes: dict[int, int] = {}

    def pin(self, address: int, size: int) -> None:
        assert address not in self.bytes, "registered twice"
        self.bytes[address] = size

    def watch(self) -> None:
        """Remember the memory of all buffers, without keeping it alive."""
        for buffer in self.stager._buffers.values():
            self.storages[buffer.data_ptr()] = StorageWeakRef(buffer.untyped_storage())

    def unpin(self, address: int) -> None:
        assert not self.storages[address].expired(), "freed while it was registered"
        del self.bytes[address]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry(Stager())
    monkeypatch.setattr(background, "pin_memory", found.pin)
    monkeypatch.setattr(background, "unpin_memory", found.unpin)
    return found


def _on_gpu(*shape: int) -> torch.Tensor:
    return torch.rand(shape).as_subclass(OnGpu)


def test_a_buffer_is_unpinned_when_another_takes_its_place(registry: Registry) -> None:
    registry.stager.stage({"weight": _on_gpu(3, 4), "list": [_on_gpu(5)], "host": torch.ones(2), "empty": _on_gpu(0)})
    registry.watch()
    assert sorted(registry.bytes.values()) == [20, 48]
    changed = _on_gpu(7)
    staged = registry.stager.stage({"weight": _on_gpu(3, 4), "list": [changed]})
    registry.watch()
    assert sorted(registry.bytes.values()) == [28, 48]
    assert torch.equal(staged["list"][0], changed.as_subclass(torch.Tensor))


def test_buffers_are_unpinned_with_the_stager_once_no_copy_uses_them(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = registry.stager.stage({"a": _on_gpu(3), "b": _on_gpu(1 << 20)})
    registry.watch()
    registry.stager = Stager()
    gc.collect()
    assert len(registry.bytes) == 2
    del staged
    gc.collect()
    assert registry.bytes == {}
    # An error in a finalizer raises nothing; Python prints it.
    assert capsys.readouterr().err == ""


def test_the_thread_of_a_save_selects_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    with process_group(RuntimeConfig(device="cpu", threads=1)):
        runner = BackgroundRunner(10.0)
        selections = record_device_selections(monkeypatch, device=3)
        ran: list[str] = []
        runner.start(lambda: ran.append(threading.current_thread().name))
        runner.wait()
    assert (selections, ran) == ([("checkpoint", 3)], ["checkpoint"])
