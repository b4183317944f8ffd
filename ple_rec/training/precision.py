"""`train.precision = "auto"`: fp32 or bf16, whichever the machine multiplies matrices faster in.

A run keeps the precision that it began with, on whatever machine it is resumed or evaluated; its checkpoints record it.
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
from ple_rec.text.json_values import mapping, number

Shape = tuple[int, int, int]
# Speeds in GFLOP/s: (fp32, bf16).
Speeds = tuple[float, float]
_USED: Mapping[object, UsedPrecision] = {"fp32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Precision:
    """Precision of the dense layers' matrix products, and the measurement that it was chosen by.

    Args:
        configured: `train.precision`: "auto", "fp32" or "bf16".
        used: Precision of the products.
        gflops: GFLOP/s by precision, on the rank with the least to gain from bf16; None without a measurement.
        seconds: Seconds of the measurement; None if another process made it.
    """

    configured: AskedPrecision
    used: UsedPrecision
    gflops: Mapping[str, float] | None = None
    seconds: float | None = None

    def saved(self) -> dict[str, Any]:
        """Return the entry of a checkpoint's manifest."""
        return {"used": self.used} | ({} if self.gflops is None else {"gflops": dict(self.gflops)})

    def record(self) -> dict[str, Any]:
        """Return the entry of `metrics.json`."""
        return {"asked": self.configured} | self.saved()

    def describe(self) -> str:
        """Return the line of the log that says why the precision was chosen; empty if the configuration sets it."""
        if self.configured != "auto":
            return ""
        if self.seconds is None or self.gflops is None:
            return f"precision: {self.used}, with which the run began"
        fp32, bf16 = (speed_text(self.gflops[name]) for name in ("fp32", "bf16"))
        probe = f"(probe of {self.seconds:.1f} s)"
        if self.used == "bf16":
            return f"precision: bf16, since matrix products ran at {bf16} GFLOP/s in it and at {fp32} in fp32 {probe}"
        return (
            f"precision: fp32, since matrix products ran at {fp32} GFLOP/s in it and at {bf16} in bf16, which is not "
            f"{MIN_BF16_SPEEDUP} times as fast {probe}"
        )


def choose_precision(
    config: RunConfig,
    ranks: Ranks,
    shape: Shape,
    initial: Precision | None,
    probe: Callable[[torch.device, Shape], Speeds] | None = None,
) -> Precision:
    """Return the precision of a run, the same on every rank (a collective if it has to be measured).

    Args:
        config: Configuration of the run.
        ranks: Place of this process among the ranks.
        shape: Shape of the first layer on this rank: (samples of a batch, input width, output width).
        initial: Precision that the run began with; None if it begins now, or its checkpoint records none.
        probe: Function that measures speeds; None for `layer_speeds`.
    """
    configured = config.train.precision
    if configured != "auto":
        return Precision(configured, configured)
    if initial is not None:
        return initial
    started = time.perf_counter()
    own = torch.tensor((probe or layer_speeds)(ranks.device, shape), dtype=torch.float64, device=ranks.device)
    speeds_of_ranks = [torch.empty_like(own) for _ in range(ranks.world_size)]
    dist.all_gather(speeds_of_ranks, own)
    # All ranks wait for the slowest in every step, so the rank with the least to gain from bf16 decides.
    fp32, bf16 = min((speeds.tolist() for speeds in speeds_of_ranks), key=lambda pair: pair[1] / max(pair[0], 1e-9))
    seconds = time.perf_counter() - started
    return Precision(configured, faster_precision(fp32, bf16), {"fp32": fp32, "bf16": bf16}, seconds)


def layer_speeds(device: torch.device, shape: Shape) -> Speeds:
    """Return the GFLOP/s of a linear layer in fp32 and in bf16; 0 for bf16 if the device cannot multiply in it."""
    fp32, bf16 = layer_gflops(torch.float32, device, shape), 0.0
    with suppress(RuntimeError):
        bf16 = layer_gflops(torch.bfloat16, device, shape)
    return fp32, bf16


def saved_precision(written_by: Mapping[str, Any]) -> Precision | None:
    """Return the precision that a run with `precision = "auto"` began with; None if its checkpoint records none.

    Args:
        written_by: Description of the run in the manifest of the checkpoint.
    """
    saved = mapping(written_by.get("precision"))
    used = _USED.get(saved.get("used"))
    numbers = {name: number(speed) for name, speed in mapping(saved.get("gflops")).items()}
    speeds = {name: speed for name, speed in numbers.items() if speed is not None}
    return None if used is None else Precision("auto", used, speeds or None)
