"""What the ranks of a size of `ple-rec bench tables` are to do, and how much memory that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from data_prep.synthetic.columns import table_rows
from ple_rec.bench.tables_slice import world_of
from ple_rec.bench.turns import AGAIN
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.parallel.host import usable_memory_bytes

DIM, RANKS = 16, 2
EXPERT = 64
_BESIDE = 1 << 30  # bytes of a rank beside its shards: libraries, batches, activations
_VALUE, _STATE = 4, 4  # bytes of a value, and of a row's state of row-wise Adagrad


@dataclass(frozen=True)
class Plan:
    """What the ranks of a size do.

    Args:
        users: Rows of the table of users, row 0 excluded.
        dim: Of every table.
        ranks: Processes.
        batch_size: Samples a step and rank.
        warm_up: Steps before the first turn.
        steps: Steps of a turn that count.
        turns: How many.
        lookups: Passes of the tables alone.
    """

    users: int
    dim: int = DIM
    ranks: int = RANKS
    batch_size: int = 4096
    warm_up: int = 20
    steps: int = 10
    turns: int = 12
    lookups: int = 20

    @property
    def samples(self) -> int:
        """Of all passes of all ranks: no row of the data is read twice, where the world has so many."""
        passes = self.warm_up + self.turns * (AGAIN + self.steps) + self.lookups
        return passes * self.batch_size * self.ranks

    def sizes(self) -> dict[str, int]:
        """Of the order of a rank."""
        return {"warm_up": self.warm_up, "steps": self.steps, "lookups": self.lookups}

    def shard_bytes(self) -> int:
        """Weights and optimizer state of the rank that has most of them."""
        shares = (-(-rows // self.ranks) for rows in table_rows(world_of(self.users)).values())
        return sum(rows * (self.dim * _VALUE + _STATE) for rows in shares)

    def needed_bytes(self) -> int:
        """Memory of all ranks."""
        return self.ranks * (self.shard_bytes() + _BESIDE)

    def __str__(self) -> str:
        """For people."""
        return f"{self.users:,} user rows x {self.dim} on {self.ranks} rank(s)"


def configuration(data: Path, plan: Plan) -> RunConfig:
    """The training run of a size: PLE, row-wise shards, row-wise Adagrad."""
    level = {"task_experts": 1, "shared_experts": 1, "expert_hidden": (EXPERT,)}
    return RunConfig.model_validate(
        {
            "name": "bench-tables",
            # As many shards as divide the batch: 8 a rank, as 16 at 2 ranks by default, where it has that factor.
            "data": {"path": str(data), "virtual_shards": plan.ranks * math.gcd(8, plan.batch_size)},
            "embeddings": {"dim": plan.dim, "sharding": "row_wise"},
            "model": {"variant": "ple", "levels": (level, level)},
            "table_optimizer": {"kind": "rowwise_adagrad"},
            "train": {"batch_size_per_rank": plan.batch_size, "steps": plan.warm_up + plan.turns * plan.steps},
            "runtime": {"device": "cpu"},
        }
    )


def shortage(needed: int) -> str | None:
    """`needs X GiB of Y`, where so many bytes are more than this host has."""
    there = available_bytes()
    return None if needed <= there else f"needs {needed / 2**30:.1f} GiB of {there / 2**30:.1f}"


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that the ranks may take: what this process may use, and no more than others leave free now."""
    usable = usable_memory_bytes()
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return min(usable, int(line.split()[1]) * 1024)
    return usable


def too_large(plan: Plan, short: str, flag: str = "--rows") -> UserError:
    """The refusal of a size, asked for by `flag`, that does not fit beside those before it."""
    return UserError(
        flag,
        f"{plan} {short}",
        f"all sizes wait for their turns in memory, and a rank of this one has shards of "
        f"{plan.shard_bytes() / 2**30:.1f} GiB with the optimizer's state, and about 1 GiB beside them",
        "ask for fewer or smaller sizes, or use a larger host",
    )


def check_dim(dim: int) -> None:
    """Refuse what FBGEMM's kernels refuse.

    Raises:
        UserError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise UserError("--dim", f"got {dim}", "FBGEMM's kernels take multiples of 4", f"use {dim + 4 - dim % 4}")
