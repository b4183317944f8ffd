"""A rank that raises while its peers wait for it: `torchrun ... -m tests.runtime.raising_rank`."""

from __future__ import annotations

import sys
import time

import torch
import torch.distributed as dist

from ple_rec.config.run import RuntimeConfig
from ple_rec.distributed.process_group import process_group
from ple_rec.errors import DataError
from ple_rec.runtime.exits import end_process, run_reporting_errors


def main(device: str) -> None:
    """Rank 1 raises; the others wait in a collective that it never joins."""
    with process_group(RuntimeConfig.model_validate({"device": device, "threads": 1})) as ranks:
        ones = torch.ones(4, device=ranks.device)
        dist.all_reduce(ones)
        assert ones[0].item() == ranks.world_size
        if ranks.rank == 1:
            sys.stdout.write(f"together {time.time()}\n")
            raise DataError("part-0", "a", "b", "c")
        dist.all_reduce(ones)
        ones.tolist()  # a GPU is asked for the result, which never comes


if __name__ == "__main__":
    end_process(run_reporting_errors(lambda: main(sys.argv[1])))
