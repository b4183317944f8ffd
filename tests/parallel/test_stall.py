"""A rank that stands still ends the job in time, named, with what it was doing."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ple_rec.parallel.stall import Sign, StallWatch, verdict
from tests.distributed import RankError
from tests.train.small import on_ranks

TIMEOUT = 2.0


def _signs(*counts_and_beats: tuple[int, int]) -> list[Sign]:
    return [Sign(r, f"h{r}", c, b, f"step {c}", 7.4) for r, (c, b) in enumerate(counts_and_beats)]


def test_who_keeps_the_others_waiting() -> None:
    before = _signs((4, 9), (3, 9), (4, 9))
    behind = ("rank 1 on h1 is behind, for 7 s in step 3", [1])
    assert verdict(before, _signs((4, 10), (3, 11), (4, 10)), 0) == behind
    assert verdict(before, _signs((4, 9), (3, 11), (4, 10)), 1) == behind  # rank 0 has ended
    silent = ("rank 1 on h1 gives no sign of life, last in step 3", [1])
    assert verdict(before, _signs((4, 10), (3, 9), (4, 10)), 0) == silent
    text, culprits = verdict(before, _signs((4, 10), (4, 10), (4, 10)), 2)
    assert text == "no rank is behind, all are in step 4; a link or a device that they wait for has failed"
    assert culprits == []


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
    ("how", "who"),
    [
        ("sleeps", r"rank 1 on \S+ is behind, for \d+ s in reading the batch of step 3"),
        ("is stopped", r"rank 1 on \S+ gives no sign of life, last in .*"),
    ],
)
def test_the_others_stop_in_time_and_name_it(how: str, who: str, tmp_path: Path) -> None:
    with pytest.raises(RankError) as caught:
        on_ranks(_stalls, 2, how, tmp_path)
    seconds = time.time() - float((tmp_path / "begun").read_text())
    assert seconds < 60  # under any load; alone it takes the time-out, two looks and the end of the processes
    said = str(caught.value)
    assert re.search(f"ple-rec: rank [01]: stops, since nothing has moved for 2 s: {who}\n", said), said
    if how == "sleeps":
        assert re.search(r"ple-rec: rank 1: this is where it is:\n(?s:.*)_stalls", said), said


def _is_slow(rank: int, world_size: int) -> int:
    watch = StallWatch(rank, world_size, TIMEOUT)
    watch.start()
    dist.barrier()
    time.sleep(1.5 * TIMEOUT)  # before the first mark there is no time-out
    for step in range(3):
        watch.mark(f"step {step}")
        for _ in range(3):
            time.sleep(TIMEOUT / 2)
            watch.touch()
    watch.rest()
    time.sleep(1.5 * TIMEOUT)
    watch.close()
    return step


@pytest.mark.slow
def test_slow_is_not_still() -> None:
    assert on_ranks(_is_slow, 2) == [2, 2]
