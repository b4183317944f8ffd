"""One rank of `ple-rec bench checkpoint`.

torchrun ... -m ple_rec.bench.checkpoint_rank CONFIG.toml PLACE REPEATS FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ple_rec.bench.harness import resident_bytes
from ple_rec.bench.tables_rank import Stepper, state_bytes
from ple_rec.checkpoint.place import Place, place
from ple_rec.checkpoint.store import CheckpointStore
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.exits import end_process, end_with_agent, guarded, under_agent
from ple_rec.parallel.process_group import process_group
from ple_rec.parallel.sharding import local_shards
from ple_rec.train.finite import check_finite
from ple_rec.train.job import Job, assemble
from ple_rec.train.loop import save_checkpoint
from ple_rec.train.position import Position
from ple_rec.train.progress import Window

_STEPS_ALONE = 8


def main() -> int:
    """The whole life of a rank."""
    if under_agent():
        end_with_agent()
    config, where, repeats, folder = sys.argv[1:]
    with process_group(load_config(RunConfig, config).runtime) as ranks:
        record = measure(assemble(load_config(RunConfig, config), ranks), place(where), int(repeats))
        Path(folder, f"rank-{ranks.rank}.json").write_text(json.dumps(record), encoding="utf-8")
    return 0


def measure(job: Job, where: Place, repeats: int) -> dict[str, Any]:
    """Save by turns in both ways (a collective); what this rank saw.

    Keys: `synchronous`, `blocked` and `written`, seconds of each save; `steps_alone` and `steps_beside`, milliseconds
    of each step; `bytes` of this rank's shards and their optimizer's state; `peak_bytes`, resident at most.
    """
    stores = [CheckpointStore(where / name, keep=1, asynchronous=name == "async") for name in ("sync", "async")]
    stepper, window = Stepper(job), Window(job.selection.tasks, job.ranks.device)
    found: dict[str, list[float]] = {
        key: [] for key in ("synchronous", "blocked", "written", "steps_alone", "steps_beside")
    }
    stepper.steps(_STEPS_ALONE)
    for i in range(1 + repeats):
        position = Position(step=i + 1)
        alone = [wall for wall, _ in stepper.steps(_STEPS_ALONE)]
        synchronous = _save(job, stores[0], position, window)
        alone += [wall for wall, _ in stepper.steps(_STEPS_ALONE)]
        blocked = _save(job, stores[1], position, window)
        beside = []
        while _any(stores[1].writing):
            beside += [wall for wall, _ in stepper.steps(1)]
        stores[1].wait()
        if i:  # the first ones make files, buffers and pages
            found["synchronous"].append(synchronous)
            found["blocked"].append(blocked)
            found["written"].append(stores[1].seconds or 0.0)
            found["steps_alone"] += alone
            found["steps_beside"] += beside
    return found | {
        "bytes": sum(shard.nbytes for _, shard, *_ in local_shards(job.model)) + state_bytes(job),
        "peak_bytes": resident_bytes("VmHWM"),
    }


def _save(job: Job, store: CheckpointStore, position: Position, window: Window) -> float:
    """Seconds that it takes until the next step may begin."""
    dist.barrier()
    begun = time.perf_counter()
    check_finite(job, position.step)
    save_checkpoint(job, store, position, window, best=False)
    return time.perf_counter() - begun


def _any(flag: bool) -> bool:
    flags = torch.tensor(float(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


if __name__ == "__main__":
    end_process(guarded(main))
