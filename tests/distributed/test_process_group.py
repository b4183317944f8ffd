"""Start and end of the process group, and how ranks learn of each other's failures."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from ple_rec.config.run import RuntimeConfig
from ple_rec.distributed import process_group as module
from ple_rec.distributed.collectives import PeerError, run_on_rank_zero
from ple_rec.distributed.process_group import is_lost_peer, process_group
from ple_rec.errors import DataError, UserError
from ple_rec.runtime.cuda import MissingGpu
from ple_rec.runtime.versions import CPU_WHEEL, CUDA_WHEEL, installed_versions, nearest_stack, reinstall_fbgemm
from tests.training.small import on_ranks


def _outcomes(rank: int, world_size: int) -> list[str]:
    def refuse() -> None:
        raise UserError("a", "b", "c", "d")

    def crash() -> None:
        raise ValueError("oops")

    said = [repr(run_on_rank_zero(lambda: dist.get_rank() + 5))]
    for action in (refuse, crash):
        try:
            run_on_rank_zero(action)
        except (UserError, ValueError, PeerError) as error:
            said.append(f"{type(error).__name__}: {error} ({getattr(error, 'exit_code', 1)})")
    total = torch.ones(1)
    dist.all_reduce(total)  # the group still works
    return [*said, str(int(total))]


def test_what_fails_on_rank_0_is_known_to_all() -> None:
    assert on_ranks(_outcomes, 2) == [
        ["5", "UserError: a: b; c. Fix: d (2)", "ValueError: oops (1)", "2"],
        ["None", "PeerError: rank 0 failed with exit code 2 (2)", "PeerError: rank 0 failed with exit code 1 (1)", "2"],
    ]


def _one_raises(rank: int, world_size: int) -> tuple[str, float]:
    begun = time.monotonic()
    try:
        with process_group(RuntimeConfig(device="cpu", threads=1)) as ranks:
            assert (ranks.rank, ranks.world_size, ranks.local_world_size) == (rank, world_size, world_size)
            assert (ranks.is_main, ranks.device.type, torch.get_num_threads()) == (rank == 0, "cpu", 1)
            dist.barrier()
            if rank == 1:
                raise DataError("part-0", "a", "b", "c")
            dist.all_reduce(torch.ones(4))
    except Exception as error:
        return f"{type(error).__name__} lost={is_lost_peer(error)} {dist.is_initialized()}", time.monotonic() - begun
    return "done", 0.0


def test_a_rank_that_raises_ends_the_wait_of_its_peers() -> None:
    results = on_ranks(_one_raises, 2, init=False)
    assert [said for said, _ in results] == ["RuntimeError lost=True False", "DataError lost=False False"]
    assert max(seconds for _, seconds in results) < 20


def _alone(rank: int, world_size: int) -> list[int]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    sizes: list[int] = []
    for _ in range(2):  # and again in the same process
        with process_group(RuntimeConfig(device="auto", threads=1)) as ranks:
            total = torch.ones(1)
            dist.all_reduce(total)
            sizes += [ranks.world_size, int(total)]
    return [*sizes, int(dist.is_initialized())]


def test_without_a_launcher_there_is_one_rank() -> None:
    assert on_ranks(_alone, 1, init=False) == [[1, 1, 1, 1, 0]]


def _pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int, wheel: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(module, "installed_version", {wheel: "1.8.0"}.get)


@pytest.mark.parametrize(
    ("gpus", "wheel", "device"),
    [(2, CUDA_WHEEL, "cuda:1"), (2, CPU_WHEEL, "cpu"), (0, CPU_WHEEL, "cpu")],
)
def test_auto_is_the_device_of_fbgemms_wheel(
    monkeypatch: pytest.MonkeyPatch, gpus: int, wheel: str, device: str
) -> None:
    _pretend(monkeypatch, gpus=gpus, wheel=wheel)
    assert module.rank_device("auto", 1) == torch.device(device)
    assert module.rank_device("cpu", 1) == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, gpus=0, wheel=CUDA_WHEEL)
    missing_gpu = MissingGpu("an old driver", "torch needs 580", "update it")
    monkeypatch.setattr(module, "find_missing_gpu", lambda: missing_gpu)
    for kind, wheel in (("cuda", ""), ("auto", " beside FBGEMM's CUDA wheel")):
        with pytest.raises(UserError) as caught:
            module.rank_device(kind, 0)
        assert str(caught.value) == (
            f'runtime.device: got "{kind}"{wheel}, but torch sees no GPU: an old driver; torch needs 580. Fix: '
            "update it, or set runtime.device = cpu"
        )
    assert module.rank_device("cpu", 0) == torch.device("cpu")


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, gpus=2, wheel=CUDA_WHEEL)
    with pytest.raises(UserError) as caught:
        module.rank_device("auto", 2)
    assert str(caught.value) == (
        "runtime.device: local rank 2 on a host with 2 GPU(s); each rank needs a GPU of its own. Fix: start as many "
        "ranks per host as it has GPUs"
    )


def test_cuda_without_fbgemms_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, gpus=1, wheel=CPU_WHEEL)
    with pytest.raises(UserError) as caught:
        module.rank_device("cuda", 0)
    fix = reinstall_fbgemm(True, nearest_stack(installed_versions(), cuda=True))
    assert str(caught.value) == (
        'runtime.device: got "cuda", but FBGEMM\'s CUDA wheel fbgemm-gpu is not installed; the other wheel has no GPU '
        f"kernels for the tables. Fix: run `{fix}`, or set runtime.device = cpu"
    )


def _uneven(rank: int, world_size: int) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_WORLD_SIZE", "1" if rank == 2 else "2")
        try:
            with process_group(RuntimeConfig(device="cpu")):
                return "joined"
        except UserError as error:
            return str(error)


def test_hosts_with_different_numbers_of_ranks_are_refused_on_every_rank() -> None:
    said = (
        "ranks: 3 in total, on hosts with 1 and 2 ranks; every host must have the same number of ranks, since tables "
        "are placed by host. Fix: start the same number of ranks on each host"
    )
    assert on_ranks(_uneven, 3, init=False) == [said] * 3


def _default_threads(rank: int, world_size: int) -> tuple[int, int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ple_rec.runtime.host.usable_cores", lambda: 7)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        with process_group(RuntimeConfig(device="cpu")) as ranks:
            dist.barrier()  # neither leaves before both have joined
            return ranks.threads, torch.get_num_threads()


def test_ranks_share_the_usable_cores() -> None:
    assert on_ranks(_default_threads, 2, init=False) == [(3, 3), (3, 3)]


@pytest.mark.parametrize(("backend", "way"), [("nccl", "abort"), ("gloo", "destroy")])
def test_after_an_error_nccl_waits_for_no_collective(monkeypatch: pytest.MonkeyPatch, backend: str, way: str) -> None:
    done: list[str] = []

    def abort() -> None:
        done.append("abort")
        raise RuntimeError("CUDA error: device-side assert triggered")  # must not hide the error that led here

    monkeypatch.setattr(module, "abort_process_group", abort)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroy"))
    module._leave_after_error(backend)
    assert done == [way]
