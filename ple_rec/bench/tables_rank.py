"""One rank of `ple-rec bench tables`: it trains as a rank of `ple-rec train` does, and writes down what that took.

torchrun ... -m ple_rec.bench.tables_rank ORDER.json
"""

from __future__ import annotations

import itertools
import json
import pickle
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from ple_rec.bench.harness import resident_bytes
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.errors import PleRecError
from ple_rec.exits import end_process, end_with_agent, guarded, under_agent
from ple_rec.models.weighting import task_weights
from ple_rec.parallel.process_group import Ranks, process_group
from ple_rec.parallel.sharding import local_shards
from ple_rec.train.guard import StepGuard
from ple_rec.train.job import Job, assemble
from ple_rec.train.loop import train_step

_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Order:
    """What a rank is to do; files of `folder` say when.

    Args:
        config: Path of the run's configuration.
        folder: Of the files.
        launched: When the launcher was started, on `time.monotonic`'s clock, which all processes of a host share.
        parent: The process that measures; a rank ends once it is gone.
        warm_up: Steps of turn 0.
        again: Steps at the start of every later turn that do not count.
        steps: Steps of a turn that count.
        lookups: Passes of the tables alone, at the end.
    """

    config: str
    folder: str
    launched: float
    parent: int
    warm_up: int
    again: int
    steps: int
    lookups: int

    @property
    def path(self) -> Path:
        """Of itself, as JSON."""
        return Path(self.folder) / "order.json"

    def begin(self, turn: int) -> Path:
        """A file that is there once turn 1, 2, ... may begin; turn 0 begins by itself."""
        return Path(self.folder) / f"begin-{turn}"

    @property
    def finish(self) -> Path:
        """A file that is there once no other turn comes."""
        return Path(self.folder) / "finish"

    def done(self, rank: int, turn: int) -> Path:
        """A file that is there once a rank is through with a turn."""
        return Path(self.folder) / f"rank-{rank}.done-{turn}"

    def record(self, rank: int) -> Path:
        """What a rank has measured, at the end."""
        return Path(self.folder) / f"rank-{rank}.json"

    def error(self, rank: int) -> Path:
        """The error that ended a rank, pickled."""
        return Path(self.folder) / f"rank-{rank}.error"

    def write(self) -> None:
        """To `path`."""
        self.path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Order:
        """The inverse of `write`."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def main() -> int:
    """The whole life of a rank."""
    if under_agent():
        end_with_agent()
    order = Order.read(Path(sys.argv[1]))
    config = load_config(RunConfig, order.config)
    with process_group(config.runtime) as ranks:
        try:
            record = measure(config, ranks, order)
        except PleRecError as error:
            order.error(ranks.rank).write_bytes(pickle.dumps(error))
            raise
    order.record(ranks.rank).write_text(json.dumps(record), encoding="utf-8")
    return 0


def measure(config: RunConfig, ranks: Ranks, order: Order) -> dict[str, Any]:
    """Train in turns, then look up alone (a collective); what this rank saw.

    Keys: `rank`, `threads`; `assembled_seconds` and `startup_seconds`, from the start of the launcher to the model and
    the loader, and to the end of the first step; `step_ms` and `cpu_ms` by turn, wall and processor time of every step
    that counts, the wait for its batch included; `peak_bytes`, resident memory at most, of the process up to here;
    `tables_ms` of forward and backward of the tables alone; `shard_bytes` and `state_bytes`, of its shards and of their
    optimizer's state; `held`, by table the rows that it holds and all rows.
    """
    job = assemble(config, ranks)
    assembled = time.monotonic() - order.launched
    stepper = Stepper(job)
    stepper.steps(1)
    started = time.monotonic() - order.launched
    stepper.steps(order.warm_up - 1)
    turns: list[list[tuple[float, float]]] = []
    while _next_turn(order, ranks.rank, len(turns)):
        stepper.steps(order.again)
        turns.append(stepper.steps(order.steps))
    stepper.guard.settle()
    peak = resident_bytes("VmHWM")
    return {
        "rank": ranks.rank,
        "threads": ranks.threads,
        "assembled_seconds": assembled,
        "startup_seconds": started,
        "step_ms": [[wall for wall, _ in turn] for turn in turns],
        "cpu_ms": [[cpu for _, cpu in turn] for turn in turns],
        "tables_ms": [stepper.look_up() for _ in range(order.lookups)],
        "peak_bytes": peak,
        "shard_bytes": sum(shard.nbytes for _, shard, *_ in local_shards(job.model)),
        "state_bytes": state_bytes(job),
        "held": held(job),
    }


def _next_turn(order: Order, rank: int, turn: int) -> bool:
    """Say that `turn` is over and wait; whether another one begins. Sleeps, so that others have the processor."""
    order.done(rank, turn).touch()
    while not (begin := order.begin(turn + 1).exists()) and not order.finish.exists():
        if not Path(f"/proc/{order.parent}").exists():
            raise RuntimeError("the process that measures is gone")
        time.sleep(_POLL_SECONDS)
    return begin


class Stepper:
    """Steps of the loop of training, with batches of epoch after epoch."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.guard = StepGuard([task.name for task in job.selection.tasks], job.ranks.device)
        self._batches = _batches(job)
        self._step = 0
        job.model.train()

    def steps(self, count: int) -> list[tuple[float, float]]:
        """Milliseconds of wall and of processor time of each."""
        job, times = self.job, []
        for _ in range(count):
            begun, cpu = time.perf_counter(), time.process_time()
            batch = next(self._batches).to(job.ranks.device)
            train_step(job, self.guard, batch, self._step, task_weights(job.tasks, self._step))
            times.append(((time.perf_counter() - begun) * 1e3, (time.process_time() - cpu) * 1e3))
            self._step += 1
        return times

    def look_up(self) -> float:
        """Milliseconds of the inputs of a batch, forward, and backward with the tables' update."""
        batch = next(self._batches).to(self.job.ranks.device)
        begun = time.perf_counter()
        x_BD = self.job.bare.inputs(batch)
        x_BD.backward(torch.ones_like(x_BD))
        return (time.perf_counter() - begun) * 1e3


def _batches(job: Job) -> Iterator[Batch]:
    """Epoch after epoch."""
    for epoch in itertools.count():
        with closing(job.loader.epoch(epoch)) as batches:
            yield from batches


def held(job: Job) -> dict[str, tuple[int, int]]:
    """By table, the rows that this rank holds and all rows."""
    rows = job.dataset.schema.table_rows()
    mine = dict.fromkeys(rows, 0)
    for table, shard, *_ in local_shards(job.model):
        mine[table] += len(shard)
    return {table: (mine[table], rows[table]) for table in rows}


def state_bytes(job: Job) -> int:
    """Of the tables' optimizer on this rank."""
    state: dict[str, dict[str, Any]] = job.model.fused_optimizer.state_dict()["state"]
    values = [value for of_table in state.values() for value in of_table.values()]
    sharded = [piece.tensor for v in values if isinstance(v, ShardedTensor) for piece in v.local_shards()]
    plain = [value for value in values if isinstance(value, torch.Tensor) and not isinstance(value, ShardedTensor)]
    return sum(tensor.nbytes for tensor in (*sharded, *plain))


if __name__ == "__main__":
    end_process(guarded(main))
