"""Smoke test of a machine with a GPU: doctor, the tests of GPUs, and trainings compared with their roofline.

    python -m benchmarks.gpu [--device cpu] [--out DIR]

Each part is a process of its own with a time limit. No part starts after `--seconds`. Outputs stay in `--out`, and
`table.txt` there has the parts that have ended. The exit code is 5 if a part has failed. `--device cpu` tries the same
parts on a machine without a GPU.
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
from ple_rec.planning.plan_input import describe
from ple_rec.planning.roofline import roofline
from ple_rec.planning.workload import workload_of
from ple_rec.text import aligned
from ple_rec.text.units import gib

SOME_FAILED = 5
# A training makes this many reports, the first of which do not count.
_WINDOWS, _WARM_WINDOWS = 10, 2
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
DEVICES = dict.fromkeys(TESTS, ("cpu", "cuda")) | {"training": ("cuda",)}
_BF16, _AHEAD, _CACHED = "train.precision=bf16", "train.pipeline=sparse_dist", "embeddings.kernel=fused_uvm_caching"
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
    """Part of the smoke test: a process with a time limit.

    Args:
        name: Name of the part, and of the file of its output.
        command: Arguments of Python.
        seconds: Time limit in seconds.
        summary: Function that turns its output into a line, or raises ValueError if the output proves nothing.
    """

    name: str
    command: Sequence[str]
    seconds: float
    summary: Callable[[str], str] = lambda output: ""


def stages_of(args: argparse.Namespace) -> list[SmokeStage]:
    """Return all parts, in their order."""
    data = args.out / "data"
    prep = ("-m", "ple_rec", "prep", "tencent-synthetic", "--rows", str(args.rows), "--out", str(data), "--overwrite")
    marked = "gpu" if args.device == "cuda" else "not gpu"
    tests = ("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", marked)
    trainings = TRAININGS if args.device == "cuda" else CPU_TRAININGS
    return [
        SmokeStage("doctor", ("-m", "ple_rec", "doctor"), 60),
        *(
            SmokeStage(name, (*tests, *files), 180, passed)
            for name, files in TESTS.items()
            if args.device in DEVICES[name]
        ),
        SmokeStage("data", prep, 180),
        *(_training(name, TRAININGS[name], args) for name in trainings),
    ]


def _training(name: str, settings: Sequence[str], args: argparse.Namespace) -> SmokeStage:
    recipe, run_dir = name.split()[0], args.out / name.replace(" ", "-")
    every = max(1, args.steps // _WINDOWS)
    overrides = [
        f"data.path={args.out / 'data'}",
        f"runtime.device={args.device}",
        f"train.batch_size_per_rank={args.batch_size}",
        "train.precision=fp32",
        "train.epochs=",
        f"train.steps={args.steps}",
        f"train.report_every={every}",
        f"train.evaluate_every={args.steps}",
        "watch.tensorboard=false",
        *settings,
    ]
    command = ["-m", "ple_rec", "train", "--config", recipe, "--run-dir", str(run_dir), "--overwrite"]
    command += [word for override in overrides for word in ("--set", override)]
    return SmokeStage(name, command, 90, lambda output: speed(run_dir))


def passed(output: str) -> str:
    """Return the last line of pytest.

    Raises:
        ValueError: No test has passed, and none was skipped for want of several GPUs.
    """
    lines = re.findall(r"^.*\d+ (?:passed|skipped).*$", output, re.MULTILINE)
    if not lines or (" passed" not in lines[-1] and not re.search(r"needs \d+ GPUs", output)):
        raise ValueError("no test has passed")
    return str(lines[-1]).strip("= ")


def speed(run_dir: Path) -> str:
    """Return the median rate of the later reports of a run, and its share of the roofline of the GPU.

    Raises:
        ValueError: The run has too few reports.
    """
    lines = [json.loads(line) for line in (run_dir / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    windows = [line for line in lines if line["split"] == "train"][_WARM_WINDOWS:]
    if not windows:
        raise ValueError(f"no more than {_WARM_WINDOWS} reports; give it more --steps")
    rate = statistics.median(line["samples_per_second"] for line in windows)
    wait = statistics.median(line["data_wait"] for line in windows)
    peak = max(line["peak_bytes"] for line in windows)
    text = f"{rate:,.0f} samples/s, {wait:.0%} of it waiting for data, peak {gib(peak, 2)}"
    plan = load_plan(run_dir / "plan.json")
    if not plan.cluster.cuda or any(table.kernel != "fused" for table in plan.tables):
        # The roofline is defined only for GPUs with all tables in their memory.
        return text
    config = load_config(RunConfig, str(run_dir / "config.toml"), [])
    limit = roofline(workload_of(config, describe(config), plan.cluster), plan.cluster, plan.batch_size_per_rank)
    return f"{text}; {rate / limit.serial():.1%} of the roofline, {limit.serial():,.0f} samples/s"


def run_stage(part: SmokeStage, folder: Path) -> tuple[bool, str]:
    """Run a stage, and end it with its children after its time limit.

    Returns:
        True if it has failed, and its summary.
    """
    log = folder / f"{part.name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *part.command]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            if code := process.wait(part.seconds):
                return True, f"exit code {code}; see {log}"
            return False, part.summary(log.read_text(encoding="utf-8", errors="replace"))
        except subprocess.TimeoutExpired:
            return True, f"not done after {part.seconds:.0f} s; see {log}"
        except (ValueError, LookupError, OSError) as error:
            return True, f"{error}; see {log}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-smoke"), metavar="DIR")
    parser.add_argument("--rows", type=int, default=2_000_000, metavar="N", help="rows of the dataset; default 2 M")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="steps of a training; default 200")
    parser.add_argument("--batch-size", type=int, default=4096, metavar="N", help="samples of a step; default 4096")
    parser.add_argument("--seconds", type=int, default=600, metavar="S", help="after which no part begins; default 600")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        rule, fix = "these parts are for a GPU", "run `ple-rec doctor`, or try the parts by --device cpu"
        sys.stderr.write(f"{UserError('--device cuda', 'torch sees no CUDA device', rule, fix)}\n")
        return UserError.exit_code
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Any, ...]] = [("part", "", "seconds", "")]
    failed = False
    about = [*_devices(), *(f"{key}: {value}" for key, value in conditions(args).items() if key != "arguments")]
    end = time.monotonic() + args.seconds
    for part in stages_of(args):
        say(f"{part.name} ...")
        begun = time.monotonic()
        if begun > end:
            rows.append((part.name, "left out", "0", f"no time left of {args.seconds} s"))
        else:
            has_failed, summary = run_stage(part, args.out)
            failed |= has_failed
            rows.append((part.name, "FAILED" if has_failed else "ok", f"{time.monotonic() - begun:.0f}", summary))
        say(f"{part.name}: {' '.join(rows[-1][1:])}")
        text = "\n".join([*aligned(rows, left=(0, 1, 3)), "", *about]) + "\n"
        (args.out / "table.txt").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return SOME_FAILED if failed else 0


def _devices() -> list[str]:
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    versions = f"CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    return [f"{p.name}, {gib(p.total_memory, 0)}, sm_{p.major}{p.minor}, {versions}" for p in devices]


if __name__ == "__main__":
    sys.exit(main())
