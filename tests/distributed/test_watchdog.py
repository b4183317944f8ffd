"""Ranks that stand still end the job in time, named, with what they were doing; slow ones do not."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ple_rec.distributed.watchdog import Diagnosis, RankStatus, StallWatch, diagnose
from tests.rank_processes import RankError
from tests.training.small import on_ranks

TIMEOUT = 2.0


def _signs(*signs: tuple[int, int, float | None]) -> list[RankStatus]:
    return [
        RankStatus(rank, f"h{rank}", count, beat, f"step {count}", s) for rank, (count, beat, s) in enumerate(signs)
    ]


def test_who_keeps_the_others_waiting() -> None:
    before = _signs((4, 9, 9), (3, 9, 9), (4, 9, 9))
    behind = Diagnosis("rank 1 on h1 is behind the others: it has been in step 3 for 9 s", (1,))
    assert diagnose(before, _signs((4, 10, 9), (3, 11, 9), (4, 10, 9)), 0, 5) == behind
    silent = Diagnosis("rank 1 on h1 does not respond; its last operation was step 3", (1,))
    assert diagnose(before, _signs((4, 10, 9), (3, 9, 9), (4, 10, 9)), 0, 5) == silent
    # Rank 2 is silent, too, but it has done all that it could: it has ended.
    assert diagnose(before, _signs((4, 10, 9), (3, 9, 9), (4, 9, 9)), 0, 5) == silent
    found = diagnose(before, _signs((4, 10, 9), (4, 10, 9), (4, 10, 9)), 2, 5)
    assert found.text == "all ranks are in the same operation, step 4; a network link or a device may have failed"
    # One that writes on, or rests, moves, and the others only wait for it.
    assert diagnose(before, _signs((4, 10, 9), (3, 10, 1), (4, 10, 9)), 0, 5) == Diagnosis("", seconds_since_progress=1)
    assert diagnose(before, _signs((4, 10, 9), (3, 10, None), (4, 10, 9)), 0, 5) == Diagnosis(
        "", seconds_since_progress=0
    )
    many = diagnose(_signs(*[(4, 9, 9)] * 9), _signs(*[(4, 10, 9)], *[(4, 9, 9)] * 8), 0, 5)
    assert many.text.endswith("; and 3 more")
    assert many.culprits == tuple(range(1, 9))


def _stalls(rank: int, world_size: int, how: str, times: Path) -> None:
    watch = StallWatch(rank, world_size, TIMEOUT)
    watch.start()
    for step in range(100):
        watch.mark(f"reading the batch of step {step}")
        if rank == 1 and step == 3:
            (times / "begun").write_text(str(time.time()))
            if how == "sleeps":
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGSTOP)
        watch.mark(f"step {step}")
        dist.all_reduce(torch.ones(1))


@pytest.mark.parametrize(
    ("how", "who", "ranks"),
    [
        ("sleeps", r"rank 1 on \S+ is behind the others: it has been in reading the batch of step 3 for \d+ s", 3),
        pytest.param(
            "is stopped", r"rank 1 on \S+ does not respond; its last operation was .*", 2, marks=pytest.mark.slow
        ),
    ],
)
def test_the_others_stop_in_time_and_name_it(how: str, who: str, ranks: int, tmp_path: Path) -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(_stalls, ranks, how, tmp_path)
    seconds = time.time() - float((tmp_path / "begun").read_text())
    assert seconds < 60  # under any load; alone it takes the time-out, two looks and the end of the processes
    found = re.findall(r"ple-rec: rank \d: exits, since no rank made progress for 2 s: (.*)\n", f"{caught.value}\n")
    assert found, str(caught.value)
    for text in found:  # nobody blames another
        assert re.fullmatch(who, text), text


def _own_store(rank: int, world_size: int, port_file: Path) -> None:
    """As in a job of several hosts: the store is in rank 0's process, which then is stopped."""
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, world_size, is_master=True, wait_for_workers=False)
        port_file.with_suffix(".part").write_text(str(store.port))
        port_file.with_suffix(".part").rename(port_file)
    else:
        while not port_file.exists():
            time.sleep(0.05)
        store = dist.TCPStore("127.0.0.1", int(port_file.read_text()), world_size, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    watch = StallWatch(rank, world_size, TIMEOUT)
    watch.start()
    for step in range(100):
        watch.mark(f"step {step}")
        if rank == 0 and step == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.all_reduce(torch.ones(1))


def test_a_store_that_is_silent_stops_nobody_from_ending(tmp_path: Path) -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(_own_store, 2, tmp_path / "port", init=False)
    said = str(caught.value)
    text = "rank 1: exits, since no rank made progress for 2 s: the store, on the host of rank 0, does not answer"
    assert text in said, said


def _is_slow(rank: int, world_size: int) -> int:
    watch = StallWatch(rank, world_size, TIMEOUT)
    watch.start()
    dist.barrier()
    time.sleep(1.5 * TIMEOUT)  # before the first mark there is no time-out
    for step in range(2):
        watch.mark(f"step {step}")
        for _ in range(5 * rank):  # rank 1 writes, rank 0 waits for it
            time.sleep(TIMEOUT / 2)
            watch.touch()
        dist.barrier()
    watch.suspend()
    time.sleep(1.5 * TIMEOUT)
    watch.close()
    return step


@pytest.mark.slow
def test_slow_is_not_still() -> None:
    assert on_ranks(_is_slow, 2) == [1, 1]
