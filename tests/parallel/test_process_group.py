"""Start and end of the process group, and how ranks learn of each other's failures."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from ple_rec.config.run import RuntimeConfig
from ple_rec.errors import DataError, UserError
from ple_rec.parallel import process_group as module
from ple_rec.parallel.agree import PeerError, on_main
from ple_rec.parallel.process_group import environment_world_size, is_lost_peer, process_group
from tests.train.small import on_ranks


def _outcomes(rank: int, world_size: int) -> list[str]:
    def refuse() -> None:
        raise UserError("a", "b", "c", "d")

    def crash() -> None:
        raise ValueError("oops")

    said = [repr(on_main(lambda: dist.get_rank() + 5))]
    for action in (refuse, crash):
        try:
            on_main(action)
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
    sizes = [environment_world_size()]
    for _ in range(2):  # and again in the same process
        with process_group(RuntimeConfig(device="auto", threads=1)) as ranks:
            total = torch.ones(1)
            dist.all_reduce(total)
            sizes += [ranks.world_size, int(total)]
    return [*sizes, int(dist.is_initialized())]


def test_without_a_launcher_there_is_one_rank() -> None:
    assert on_ranks(_alone, 1, init=False) == [[1, 1, 1, 1, 1, 0]]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as caught:
        module._device("cuda", 0)
    assert str(caught.value) == (
        'runtime.device: got "cuda", but torch sees no GPU; it needs a GPU, its driver and a CUDA build of torch. Fix: '
        "run `ple-rec doctor`, or set runtime.device = cpu"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert module._device("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(UserError) as caught:
        module._device("auto", 2)
    assert str(caught.value) == (
        "runtime.device: local rank 2 on a host with 2 GPU(s); each rank needs a GPU of its own. Fix: start as many "
        "ranks per host as it has GPUs"
    )
