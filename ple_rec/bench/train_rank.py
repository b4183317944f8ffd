"""One rank of `ple-rec bench dense` and `bench train`: the loop of training, which waits at its loader for its turns.

torchrun ... -m ple_rec.bench.train_rank ORDER.json, or without torchrun as a single rank.

The loop is `train.loop.train_steps` as it is. It is given a loader that holds a batch back until the turn comes, and
that sees when the loop asks for the next one. In between the process does what other turns are of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from ple_rec.bench.dense_step import dense_batch, dense_step
from ple_rec.bench.harness import resident_bytes
from ple_rec.bench.limits import copy_bandwidth, gemm_peak
from ple_rec.bench.tables_rank import state_bytes
from ple_rec.bench.turns import AGAIN, Order, rank_main
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.data.loader import Loader
from ple_rec.exits import end_process, guarded
from ple_rec.modules.gemm_probe import gemm_gflops
from ple_rec.parallel.process_group import Ranks
from ple_rec.parallel.sharding import local_shards
from ple_rec.train.evaluate import evaluate
from ple_rec.train.job import Job, assemble
from ple_rec.train.loop import train_steps
from ple_rec.train.watch import watching

TRAIN = "train"  # the turn in which the loop goes on
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROBE_SECONDS = 0.2

Saw = dict[str, Any]


class Over(Exception):  # noqa: N818 - no error
    """No other turn comes."""


class PacedLoader(Loader):
    """A loader that says when it is asked, before it reads.

    Args:
        loader: Which it is in all else.
        asked: Called at every request of a batch.
    """

    def __init__(self, loader: Loader, asked: Callable[[], None]) -> None:
        vars(self).update(vars(loader))
        self._asked = asked

    def epoch(self, epoch: int, start_step: int = 0, *, offset: int = 0) -> Generator[Batch, None, None]:
        """As of `Loader`."""
        with closing(super().epoch(epoch, start_step, offset=offset)) as batches:
            while True:
                self._asked()
                if (batch := next(batches, None)) is None:
                    return
                yield batch


class Pace:
    """Steps of the loop by turns.

    Turn 0, the warm-up, begins by itself. A step lasts from one request of a batch to the next one.

    Args:
        order: Of the rank; `warm_up` and `steps` are its sizes.
        rank: Of this process.
        waits: Called before each wait.
        others: What turns of other names do, and what is seen in each.
    """

    def __init__(
        self, order: Order, rank: int, waits: Callable[[], None], others: dict[str, Callable[[], Saw]]
    ) -> None:
        self._order, self._rank, self._waits, self._others = order, rank, waits, others
        self._turn = 0
        self._left = order.sizes["warm_up"]
        self._steps: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None
        self.startup_seconds: float | None = None

    def asked(self) -> None:
        """The step before is done; returns when the next one may begin.

        Raises:
            Over: it may not.
        """
        now = (time.perf_counter(), time.process_time())
        if self._last is not None:
            self._steps.append((now[0] - self._last[0], now[1] - self._last[1]))
            self._left -= 1
            if self.startup_seconds is None:
                self.startup_seconds = time.monotonic() - self._order.launched
        if self._left == 0:
            self._wait()
            now = (time.perf_counter(), time.process_time())
        self._last = now

    def _wait(self) -> None:
        counted = self._steps[AGAIN if self._turn else 0 :]
        saw: Saw = {"seconds": [wall for wall, _ in counted], "cpu_seconds": [cpu for _, cpu in counted]}
        while True:
            self._waits()
            what = self._order.next_turn(self._rank, self._turn, saw | {"peak_bytes": resident_bytes("VmHWM")})
            if what is None:
                raise Over
            self._turn += 1
            if what == TRAIN:
                break
            saw = self._others[what]()
        self._steps, self._left = [], AGAIN + self._order.sizes["steps"]


def measure(config: RunConfig, ranks: Ranks, order: Order) -> dict[str, Any]:
    """Train by turns (a collective); what this rank saw beside them.

    Keys: `threads`; `startup_seconds`, from the start of the process or its launcher to the end of the first step;
    `batch_size` of this rank; `precision` of the matrix products; `flops_per_sample`, forward; `table_bytes`, of this
    rank's shards and their optimizer's state.
    """
    job = assemble(config, ranks)
    pace = Pace(order, ranks.rank, ranks.watch.rest, others(job, order))
    paced = replace(job, loader=PacedLoader(job.loader, pace.asked))
    run_dir = Path(order.folder) / "run"
    if ranks.is_main:
        run_dir.mkdir()
    with suppress(Over), watching(config, run_dir, resume=False) as watchers:
        train_steps(paced, run_dir, resume=False, watchers=watchers)
    return {
        "threads": ranks.threads,
        "startup_seconds": pace.startup_seconds,
        "batch_size": job.loader.batch_size,
        "precision": job.precision.used,
        "flops_per_sample": job.bare.flops_per_sample(),
        "table_bytes": sum(shard.nbytes for _, shard, *_ in local_shards(job.model)) + state_bytes(job),
    }


def others(job: Job, order: Order) -> dict[str, Callable[[], Saw]]:
    """Turns beside that of the loop, by name; each gives what it saw."""
    batch = cache(partial(dense_batch, job))  # made once it is needed: the loop's memory is measured too

    def dense() -> Saw:
        steps = [_timed(lambda: dense_step(job, batch())) for _ in range(1 + order.sizes["dense_steps"])][1:]
        return {"seconds": [wall for wall, _ in steps], "cpu_seconds": [cpu for _, cpu in steps]}

    def gemm() -> Saw:
        peak = gemm_peak(_PRECISIONS[job.precision.used])
        return {"gflops": peak.gflops, "shape": list(peak.shape)}

    def probe() -> Saw:
        return {name: gemm_gflops(dtype, "cpu", _PROBE_SECONDS) for name, dtype in _PRECISIONS.items()}

    return {
        "dense": dense,
        "gemm": gemm,
        "probe": probe,
        "copy": lambda: {"gb_per_second": copy_bandwidth()},
        "evaluate": lambda: _evaluated(job),
    }


def _evaluated(job: Job) -> Saw:
    """The validation split as the loop evaluates it, from the start of its loader on."""
    rows = 0

    def counted(batches: Iterable[Batch]) -> Iterator[Batch]:
        nonlocal rows
        for batch in batches:
            rows += batch.rows
            yield batch

    begun = time.perf_counter()
    with closing(job.evaluation_loader("valid").epoch(0)) as batches:
        exact = job.config.train.exact_auc_limit
        evaluate(job.model, counted(batches), job.selection.tasks, job.ranks.device, exact_limit=exact)
    return {"rows": rows, "seconds": time.perf_counter() - begun}


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - cpu


if __name__ == "__main__":
    end_process(guarded(partial(rank_main, measure)))
