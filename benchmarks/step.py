"""Operators of one training step by region of the step, and the host's time for them.

    python -m benchmarks.step RECIPE --data DIR [--batch-size N] [--precision P] [--device D] [--set KEY=VALUE ...]

With `--device cpu`, the default, a CPU takes the branches of the code that are for a GPU, uncompiled. Operators that
only make a view are not counted. The columns:

    a step      operators of a step without a report
    mean        operators a step, as mean over the steps between two reports and the step with the report
    host reads  values of tensors that the host reads in a step; on a GPU, each read makes the host wait for the device
    host ms     median time of the host, which launches the operators; on a CPU, it contains their computation, so that
                only a small batch and small layers (`--set`) show the time that a GPU's host would take
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from benchmarks.harness import describe_machine, scratch_folder
from benchmarks.operators import StepCounts, count_steps
from benchmarks.reference import run_overrides
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.distributed.process_group import process_group
from ple_rec.text import align_columns
from ple_rec.training.context import build_context
from ple_rec.training.profiler.regions import REGIONS
from tests.gpu_proofs.device_path import device_path

_REPORT_EVERY = 20
_TIMED_STEPS = 120


def main() -> None:
    """Count, time and print."""
    args = _arguments().parse_args()
    overrides = run_overrides(
        args.data,
        1,
        f"runtime.device={args.device}",
        f"train.batch_size_per_rank={args.batch_size}",
        f"train.precision={args.precision}",
        f"train.report_every={_REPORT_EVERY}",
        f"data.virtual_shards={min(16, args.batch_size)}",
        *args.set,
    )
    config = load_config(RunConfig, args.recipe, overrides)
    on_device = device_path() if args.device == "cpu" else nullcontext()
    with scratch_folder() as folder, on_device, process_group(config.runtime) as ranks:
        counts = count_steps(build_context(config, ranks), Path(folder), counted=_REPORT_EVERY, timed=_TIMED_STEPS)
    sys.stdout.write("\n".join([*describe(counts), f"machine: {describe_machine()}"]) + "\n")


def describe(counts: StepCounts) -> list[str]:
    """Return the lines of a table with a row for each region, and the median and first decile of the host's time."""
    # The second counted step: the first one may follow a report, the last one has a report itself.
    step, mean, reads = counts.by_region(1), counts.mean_by_region(), counts.host_reads[1]
    rows = [("region", "a step", "mean", "host reads", "host ms")]
    for region in REGIONS:
        milliseconds = f"{1e3 * counts.median_seconds(region):.2f}"
        rows.append((region, str(step[region]), f"{mean[region]:.1f}", str(reads[region]), milliseconds))
    rows.append(("all", str(step.total()), f"{sum(mean.values()):.1f}", str(reads.total()), ""))
    host = counts.host_seconds()
    median, first_decile = (f"{1e3 * host[len(host) // part]:.2f} ms" for part in (2, 10))
    return [*align_columns(rows), "", f"host, without waiting for data: median {median}, p10 {first_decile}"]


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("recipe", help="name of a recipe, or a TOML file")
    arguments.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset directory of the recipe")
    arguments.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step; default 4096")
    arguments.add_argument("--precision", default="bf16", help="fp32, bf16 or auto; default bf16")
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further overrides")
    return arguments


if __name__ == "__main__":
    main()
