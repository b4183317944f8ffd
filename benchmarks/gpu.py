"""Smoke test of a machine with a GPU: `ple-rec doctor`, the GPU tests, and trainings compared with their roofline.

    python -m benchmarks.gpu [--device cpu] [--out DIR]

Each stage is a process of its own with a time limit. No stage starts once `--seconds` seconds have passed.
Outputs stay in `--out`, where `table.txt` lists the result of each stage so far. The exit code is 5 if a stage has
failed. `--device cpu` tries the script on a machine without a GPU: it runs tests that need no GPU, and only the
trainings in `CPU_TRAININGS`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import conditions, say
from ple_rec.config.load import load_config
from ple_rec.config.plan import load_plan
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError
from ple_rec.planning.plan_input import describe_dataset
from ple_rec.planning.roofline import roofline
from ple_rec.planning.workload import sample_work
from ple_rec.text import align_columns
from ple_rec.text.units import gib_text

SOME_FAILED = 5  # Exit code if a stage has failed.
# Number of reports that a training writes, and number of the first ones, which are left out as warm-up.
_REPORTS, _WARM_UP_REPORTS = 10, 2
# Test files of each stage of tests.
TESTS = {
    "layers and batches": (
        "tests/modules/test_experts.py",
        "tests/models/test_pooling.py",
        "tests/data/test_loader.py",
    ),
    "training": ("tests/training/test_gpu.py",),
    "tables and exports": ("tests/training/test_devices.py", "tests/inference/test_devices.py"),
    "several GPUs": ("tests/training/test_several_devices.py",),
}
# Values of `--device` with which each of these stages runs.
DEVICES = dict.fromkeys(TESTS, ("cpu", "cuda")) | {"training": ("cuda",)}
_BF16, _AHEAD, _CACHED = "train.precision=bf16", "train.pipeline=sparse_dist", "embeddings.kernel=fused_uvm_caching"
# Overrides of the configuration of each training, by its name. The first word of the name is the recipe.
TRAININGS: dict[str, tuple[str, ...]] = {
    "tencent-ple fp32": (),
    "tencent-ple bf16": (_BF16,),
    "tencent-ple bf16 sparse_dist": (_BF16, _AHEAD),
    "tencent-ple bf16 UVM caching": (_BF16, _CACHED),
    "tencent-ple bf16 UVM caching prefetch": (_BF16, _CACHED, "train.pipeline=prefetch"),
    "bench-feed fp32": (),
    "bench-feed bf16": (_BF16,),
    "bench-feed bf16 sparse_dist": (_BF16, _AHEAD),
}
CPU_TRAININGS = ("tencent-ple fp32", "bench-feed fp32")


@dataclass(frozen=True)
class SmokeStage:
    """Stage of the smoke test: a process with a time limit.

    Args:
        name: Name of the stage, and of the file of its output.
        command: Arguments of the Python interpreter.
        seconds: Time limit in seconds.
        summary: Function that turns the output into a line for the table. It raises ValueError if the output shows that
            nothing was tested or measured.
    """

    name: str
    command: Sequence[str]
    seconds: float
    summary: Callable[[str], str] = lambda output: ""


def smoke_stages(args: argparse.Namespace) -> list[SmokeStage]:
    """Return all stages in the order in which they run."""
    data = args.out / "data"
    prep = ("-m", "ple_rec", "prep", "tencent-synthetic", "--rows", str(args.rows), "--out", str(data), "--overwrite")
    marker = "gpu" if args.device == "cuda" else "not gpu"
    tests = ("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", marker)
    trainings = TRAININGS if args.device == "cuda" else CPU_TRAININGS
    return [
        SmokeStage("doctor", ("-m", "ple_rec", "doctor"), 60),
        *(
            SmokeStage(name, (*tests, *files), 180, summarize_tests)
            for name, files in TESTS.items()
            if args.device in DEVICES[name]
        ),
        SmokeStage("data", prep, 180),
        *(_training_stage(name, TRAININGS[name], args) for name in trainings),
    ]


def _training_stage(name: str, settings: Sequence[str], args: argparse.Namespace) -> SmokeStage:
    recipe, run_dir = name.split()[0], args.out / name.replace(" ", "-")
    steps_per_report = max(1, args.steps // _REPORTS)
    overrides = [
        f"data.path={args.out / 'data'}",
        f"runtime.device={args.device}",
        f"train.batch_size_per_rank={args.batch_size}",
        "train.precision=fp32",
        "train.epochs=",  # No number of epochs, since `train.steps` ends the run.
        f"train.steps={args.steps}",
        f"train.report_every={steps_per_report}",
        f"train.evaluate_every={args.steps}",
        "watch.tensorboard=false",
        *settings,
    ]
    command = ["-m", "ple_rec", "train", "--config", recipe, "--run-dir", str(run_dir), "--overwrite"]
    command += [word for override in overrides for word in ("--set", override)]
    return SmokeStage(name, command, 90, lambda output: summarize_training(run_dir))


def summarize_tests(output: str) -> str:
    """Return the last line of pytest's output, with the numbers of tests.

    Raises:
        ValueError: No test has passed, and none was skipped because it needs several GPUs.
    """
    lines = re.findall(r"^.*\d+ (?:passed|skipped).*$", output, re.MULTILINE)
    if not lines or (" passed" not in lines[-1] and not re.search(r"needs \d+ GPUs", output)):
        raise ValueError("no test has passed")
    return str(lines[-1]).strip("= ")


def summarize_training(run_dir: Path) -> str:
    """Return rate, waiting time and peak memory of a run as text.

    Rate and waiting time are medians over the reports after the first two. On a GPU whose memory holds all tables, the
    text also has the rate as a share of the roofline.

    Raises:
        ValueError: The run has too few reports.
    """
    lines = [json.loads(line) for line in (run_dir / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    reports = [line for line in lines if line["split"] == "train"][_WARM_UP_REPORTS:]
    if not reports:
        raise ValueError(f"no more than {_WARM_UP_REPORTS} reports; give it more --steps")
    rate = statistics.median(line["samples_per_second"] for line in reports)
    wait = statistics.median(line["data_wait"] for line in reports)
    peak = max(line["peak_bytes"] for line in reports)
    text = f"{rate:,.0f} samples/s, {wait:.0%} of the time waiting for data, peak {gib_text(peak, 2)}"
    plan = load_plan(run_dir / "plan.json")
    if not plan.cluster.cuda or any(table.kernel != "fused" for table in plan.tables):
        # The roofline is computed only for GPUs that hold all tables in their memory.
        return text
    config = load_config(RunConfig, str(run_dir / "config.toml"), [])
    limit = roofline(
        sample_work(config, describe_dataset(config), plan.cluster), plan.cluster, plan.batch_size_per_rank
    )
    return f"{text}; {rate / limit.serial_rate():.1%} of the roofline, {limit.serial_rate():,.0f} samples/s"


def run_stage(stage: SmokeStage, folder: Path) -> tuple[bool, str]:
    """Run a stage until it ends or its time limit has passed; then kill it with its child processes.

    Returns:
        True if the stage has failed, and its summary or the reason.
    """
    log = folder / f"{stage.name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *stage.command]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            if code := process.wait(stage.seconds):
                return True, f"exit code {code}; see {log}"
            return False, stage.summary(log.read_text(encoding="utf-8", errors="replace"))
        except subprocess.TimeoutExpired:
            return True, f"not done after {stage.seconds:.0f} s; see {log}"
        except (ValueError, LookupError, OSError) as error:
            return True, f"{error}; see {log}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-smoke"), metavar="DIR")
    parser.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="rows of the dataset; default 2 M")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="steps of a training; default 200")
    parser.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step; default 4096")
    parser.add_argument(
        "--seconds", type=int, default=600, metavar="S", help="after which no stage starts; default 600"
    )
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        rule, fix = "the smoke test is for a GPU", "run `ple-rec doctor`, or try the stages by --device cpu"
        sys.stderr.write(f"{UserError('--device cuda', 'torch sees no CUDA device', rule, fix)}\n")
        return UserError.exit_code
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Any, ...]] = [("stage", "", "seconds", "")]
    failed = False
    condition_lines = [
        *_describe_devices(),
        *(f"{key}: {value}" for key, value in conditions(args).items() if key != "arguments"),
    ]
    end = time.monotonic() + args.seconds
    for stage in smoke_stages(args):
        say(f"{stage.name} ...")
        begun = time.monotonic()
        if begun > end:
            rows.append((stage.name, "left out", "0", f"no time left of {args.seconds} s"))
        else:
            has_failed, summary = run_stage(stage, args.out)
            failed |= has_failed
            rows.append((stage.name, "FAILED" if has_failed else "ok", f"{time.monotonic() - begun:.0f}", summary))
        say(f"{stage.name}: {' '.join(rows[-1][1:])}")
        text = "\n".join([*align_columns(rows, left_columns=(0, 1, 3)), "", *condition_lines]) + "\n"
        (args.out / "table.txt").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return SOME_FAILED if failed else 0


def _describe_devices() -> list[str]:
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    versions = f"CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    return [f"{p.name}, {gib_text(p.total_memory, 0)}, sm_{p.major}{p.minor}, {versions}" for p in devices]


if __name__ == "__main__":
    sys.exit(main())
