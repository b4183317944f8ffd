"""Choice of the precision of a run's matrix products, fp32 or bf16.

`train.precision` is one of the two, or "auto". With "auto", `choose_precision` measures both on the machine, and takes
bf16 if it is faster by a margin. Checkpoints record the choice, and the run keeps it on whatever machine it is resumed
or evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ple_rec.config.choices import MIN_BF16_SPEEDUP, AskedPrecision, UsedPrecision, faster_precision, speed_text
from ple_rec.config.run import RunConfig
from ple_rec.distributed.process_group import Ranks
from ple_rec.models.cpu.gemm_probe import layer_gflops
from ple_rec.text.json_values import as_mapping, as_number

# Shape of a linear layer: (rows, input width, output width).
Shape = tuple[int, int, int]
# Speeds in GFLOP/s: (fp32, bf16).
Speeds = tuple[float, float]
# Precisions by their names in a manifest.
_PRECISIONS: Mapping[object, UsedPrecision] = {"fp32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Precision:
    """Precision of the dense layers' matrix products, and the measurement that decided it.

    Args:
        configured: `train.precision`: "auto", "fp32" or "bf16".
        name: Precision of the products, "fp32" or "bf16".
        gflops: GFLOP/s by precision, on the rank that gains least from bf16; None without a measurement.
        seconds: Seconds of the measurement; None without a measurement, or if an earlier process of the run made it.
    """

    configured: AskedPrecision
    name: UsedPrecision
    gflops: Mapping[str, float] | None = None
    seconds: float | None = None

    def saved(self) -> dict[str, Any]:
        """Return the entry of a checkpoint's manifest."""
        return {"used": self.name} | ({} if self.gflops is None else {"gflops": dict(self.gflops)})

    def record(self) -> dict[str, Any]:
        """Return the entry of `metrics.json`."""
        return {"asked": self.configured} | self.saved()

    def describe(self) -> str:
        """Return a line for the log that says why "auto" chose this precision; an empty text if it was configured."""
        if self.configured != "auto":
            return ""
        if self.seconds is None or self.gflops is None:
            return f"precision: {self.name}, with which the run began"
        fp32, bf16 = (speed_text(self.gflops[name]) for name in ("fp32", "bf16"))
        probe = f"(probe of {self.seconds:.1f} s)"
        if self.name == "bf16":
            return f"precision: bf16, since matrix products ran at {bf16} GFLOP/s in it and at {fp32} in fp32 {probe}"
        return (
            f"precision: fp32, since matrix products ran at {fp32} GFLOP/s in it and at {bf16} in bf16, which is not "
            f"{MIN_BF16_SPEEDUP} times as fast {probe}"
        )


def choose_precision(
    config: RunConfig,
    ranks: Ranks,
    shape: Shape,
    initial_precision: Precision | None,
    probe: Callable[[torch.device, Shape], Speeds] | None = None,
) -> Precision:
    """Return the precision of a run, the same on every rank (a collective if it has to be measured).

    Args:
        config: Configuration of the run.
        ranks: Place of this process among the ranks.
        shape: Shape of the first layer on this rank: (samples of a batch, input width, output width).
        initial_precision: Precision that the run began with; None if it begins now, or its checkpoint records none.
        probe: Function that measures the speeds of a layer on a device; None for `layer_speeds`.
    """
    configured = config.train.precision
    if configured != "auto":
        return Precision(configured, configured)
    if initial_precision is not None:
        return initial_precision
    started = time.perf_counter()
    own_speeds = torch.tensor((probe or layer_speeds)(ranks.device, shape), dtype=torch.float64, device=ranks.device)
    speeds_by_rank = [torch.empty_like(own_speeds) for _ in range(ranks.world_size)]
    dist.all_gather(speeds_by_rank, own_speeds)
    # All ranks wait for the slowest in every step, so the rank that gains least from bf16 decides.
    fp32, bf16 = min((speeds.tolist() for speeds in speeds_by_rank), key=lambda pair: pair[1] / max(pair[0], 1e-9))
    seconds = time.perf_counter() - started
    return Precision(configured, faster_precision(fp32, bf16), {"fp32": fp32, "bf16": bf16}, seconds)


def layer_speeds(device: torch.device, shape: Shape) -> Speeds:
    """Return the GFLOP/s of a linear layer in fp32 and in bf16; 0 for bf16 if the device cannot multiply in it."""
    fp32, bf16 = layer_gflops(torch.float32, device, shape), 0.0
    with suppress(RuntimeError):
        bf16 = layer_gflops(torch.bfloat16, device, shape)
    return fp32, bf16


def saved_precision(written_by: Mapping[str, Any]) -> Precision | None:
    """Return the precision that a checkpoint records, as chosen by `precision = "auto"`; None if it records none.

    `choose_precision` ignores it if the configuration fixes the precision.

    Args:
        written_by: Description of the run in the manifest of the checkpoint.
    """
    saved = as_mapping(written_by.get("precision"))
    precision = _PRECISIONS.get(saved.get("used"))
    numbers = {name: as_number(speed) for name, speed in as_mapping(saved.get("gflops")).items()}
    speeds = {name: speed for name, speed in numbers.items() if speed is not None}
    return None if precision is None else Precision("auto", precision, speeds or None)
