"""The reference workload, `bench-feed`, as `ple-rec bench dense` and `bench train` run it."""

from __future__ import annotations

import math
from pathlib import Path

from ple_rec.config.load import load_config
from ple_rec.config.run import DataConfig, RunConfig

RECIPE = "bench-feed"
MODULE = "ple_rec.bench.train_rank"
TRAINED = 3  # times the FLOPs of a forward pass: forward, and backward by inputs and by weights
_NEVER = 10**9  # steps


def configuration(data: Path, ranks: int, threads: int, batch_size: int, precision: str | None) -> RunConfig:
    """The recipe on a dataset directory, without an end.

    Args:
        data: The directory.
        ranks: Processes.
        threads: Of each.
        batch_size: Samples a step and rank.
        precision: `train.precision`; None: of the recipe.

    Raises:
        UserError: `train.precision` has no such value.
    """
    shards = DataConfig.model_fields["virtual_shards"].default
    if shards % ranks or batch_size * ranks % shards:
        shards = ranks * math.gcd(8, batch_size)
    settings = [
        f"data.path={data}",
        f"data.virtual_shards={shards}",
        f"runtime.threads={threads}",
        "runtime.device=cpu",
        f"train.batch_size_per_rank={batch_size}",
        "train.epochs=",
        f"train.steps={_NEVER}",
        f"train.evaluate_every={_NEVER}",
        *([] if precision is None else [f"train.precision={precision}"]),
    ]
    return load_config(RunConfig, RECIPE, settings)


def gflops(flops_per_sample: int, samples_per_second: float) -> float:
    """GFLOP/s of training."""
    return TRAINED * flops_per_sample * samples_per_second / 1e9


def rate(batch_size: int, seconds: list[float]) -> float:
    """Samples a second of a turn, from the seconds of its steps."""
    return batch_size * len(seconds) / sum(seconds)
