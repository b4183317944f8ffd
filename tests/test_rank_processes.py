"""The helper that every distributed test stands on: values, failures, deaths and time-outs of ranks."""

from __future__ import annotations

import os
import sys
import time

import pytest
import torch
import torch.distributed as dist

from tests.rank_processes import RankError, run_ranks


def _sum_of_ranks(rank: int, world_size: int, offset: torch.Tensor) -> tuple[int, torch.Tensor, int, str]:
    total = offset + rank
    dist.all_reduce(total)
    assert dist.get_rank() == rank
    assert dist.get_world_size() == world_size
    return rank, total, torch.get_num_threads(), os.environ.get("RUN_RANKS_PROBE", "")


def _rank_one_raises(rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("table t0 has no rows")
    dist.barrier()  # would wait for ever


def _rank_one_dies(rank: int, world_size: int) -> None:
    if rank == 1:
        sys.stderr.write("last words\n")
        os._exit(7)
    dist.barrier()


def _rank_one_sleeps(rank: int, world_size: int) -> None:
    if rank == 1:
        time.sleep(60)


def _without_a_group(rank: int, world_size: int) -> tuple[bool, str]:
    before = dist.is_initialized()
    dist.init_process_group("gloo")  # env://, as under torchrun
    dist.barrier()  # a rank that ends sooner would be gone while others still connect to it
    return before, f"{dist.get_rank()}/{dist.get_world_size()}"


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_rank_returns_its_value(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_RANKS_PROBE", f"now {world_size}")
    results = run_ranks(_sum_of_ranks, world_size, torch.tensor([2.0]))
    expected = torch.tensor([2.0 * world_size + sum(range(world_size))])
    assert [(rank, threads, probe) for rank, _, threads, probe in results] == [
        (rank, 1, f"now {world_size}") for rank in range(world_size)
    ]
    assert all(torch.equal(total, expected) for _, total, _, _ in results)


def test_a_rank_that_raises_ends_the_others_and_shows_its_traceback() -> None:
    start = time.monotonic()
    with pytest.raises(RankError, match=r"_rank_one_raises on 2 ranks: rank 1 failed\n--- rank 1: Traceback") as caught:
        run_ranks(_rank_one_raises, 2)
    assert time.monotonic() - start < 30
    assert "ValueError: table t0 has no rows" in str(caught.value)
    assert "--- rank 0: " in str(caught.value)


def test_a_rank_that_dies_shows_exit_code_and_output() -> None:
    with pytest.raises(RankError, match="rank 1: ended without an answer, exit code 7") as caught:
        run_ranks(_rank_one_dies, 2)
    assert "--- rank 1 wrote:\nlast words" in str(caught.value)


@pytest.mark.slow
def test_a_rank_that_hangs_shows_where() -> None:
    with pytest.raises(RankError, match=r"_rank_one_sleeps on 2 ranks: not done after 3 s") as caught:
        run_ranks(_rank_one_sleeps, 2, timeout=3)
    assert "--- rank 0: finished" in str(caught.value)
    assert "--- rank 1: did not finish" in str(caught.value)
    assert "in _rank_one_sleeps" in str(caught.value)


def test_the_group_can_be_left_to_the_function() -> None:
    assert run_ranks(_without_a_group, 2, init=False) == [(False, "0/2"), (False, "1/2")]
