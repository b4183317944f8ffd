"""The trainings that `ple-rec bench gpu` times, and what their reports tell beside the roofline of the GPU."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.config.load import load_config
from ple_rec.config.plan_file import load_plan
from ple_rec.config.run import RunConfig

_WARM_WINDOWS = 2  # reports that do not count


@dataclass(frozen=True)
class Timed:
    """A training that is timed.

    Args:
        keys: Settings beside those that all have.
        recipe: Two-level PLE at the sizes of this recipe.
        own_batch: Whether a step has the samples of the recipe, whatever `--batch-size` says.
    """

    keys: tuple[str, ...] = ()
    recipe: str = "tencent-ple"
    own_batch: bool = False


_FP32, _BF16 = "train.precision=fp32", "train.precision=bf16"
_CACHED = (_BF16, "embeddings.kernel=fused_uvm_caching")
_AHEAD = "train.pipeline=sparse_dist"
TIMED: dict[str, dict[str, Timed]] = {
    "cpu": {
        "fp32": Timed((_FP32,)),
        "fp32 sparse_dist": Timed((_FP32, _AHEAD)),
        "bench-feed fp32": Timed((_FP32,), "bench-feed"),
    },
    "cuda": {
        "fp32": Timed((_FP32,)),
        "bf16": Timed((_BF16,)),
        "bf16 sparse_dist": Timed((_BF16, _AHEAD)),
        "bench-feed fp32": Timed((_FP32,), "bench-feed", own_batch=True),
        "bench-feed bf16": Timed((_BF16,), "bench-feed", own_batch=True),
        "bench-feed bf16 sparse_dist": Timed((_BF16, _AHEAD), "bench-feed", own_batch=True),
        "bf16 UVM caching": Timed(_CACHED),
        "bf16 UVM caching prefetch": Timed((*_CACHED, "train.pipeline=prefetch")),
    },
}


def speed(run_dir: Path, batch: int) -> str:
    """Samples a second of a run, the median of its later reports, with what they waited for data and their memory.

    Args:
        run_dir: Of a run on one rank.
        batch: Its samples a step.

    Raises:
        ValueError: it has too few reports.
        OSError: it has none.
    """
    windows = _windows(run_dir)
    rates = sorted(line["samples_per_second"] for line in windows)
    rate = statistics.median(rates)
    data = statistics.median(line["data_wait"] for line in windows)
    peak = max(line["peak_bytes"] for line in windows) / 2**30
    return (
        f"{rate:,.0f} samples/s ({rates[0]:,.0f} to {rates[-1]:,.0f}), {1e3 * batch / rate:.2f} ms/step, "
        f"{data:.0%} of it waiting for data, peak {peak:.2f} GiB"
    )


def beside_roofline(run_dir: Path) -> str:
    """What the roofline of a run's GPU lets it reach, and the share that it has reached; "" where it has none.

    A roofline is of GPUs, and of tables in their memory.

    Args:
        run_dir: Of a run that `speed` can read, with the cluster and the plan that it found.
    """
    plan = load_plan(run_dir / "plan.json")
    if not plan.cluster.cuda or any(table.kernel != "fused" for table in plan.tables):
        return ""
    from ple_rec.planning.roofline import roofline
    from ple_rec.planning.subject import describe
    from ple_rec.planning.workload import workload_of

    config = load_config(RunConfig, str(run_dir / "config.toml"), [])
    peak = roofline(workload_of(config, describe(config), plan.cluster), plan.cluster, plan.batch_size_per_rank)
    rate = statistics.median(line["samples_per_second"] for line in _windows(run_dir))
    return (
        f"; {rate / peak.serial():.1%} of the roofline of {plan.cluster.hardware.device}, {peak.serial():,.0f} "
        f"samples/s with one part after another ({peak.overlapped(loader=False):,.0f} all at once, bound by "
        f"{peak.bound(loader=False)})"
    )


def _windows(run_dir: Path) -> list[dict[str, Any]]:
    """The reports that count."""
    lines = [json.loads(line) for line in (run_dir / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    windows = [line for line in lines if line["split"] == "train"][_WARM_WINDOWS:]
    if not windows:
        raise ValueError(f"no more than {_WARM_WINDOWS} reports of training; give it more steps")
    return windows
