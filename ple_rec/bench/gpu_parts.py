"""The parts of `ple-rec bench gpu`: the command of each, its time limit, and what its output tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ple_rec.bench.gpu_timed import TIMED, Timed, beside_roofline, speed
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig

State = Literal["ok", "failed", "skipped"]
SKIPPED: State = "skipped"

# Files of tests whose GPU variants run, by part. Those of the second kind run on a CPU too, marked slow.
KERNEL_TESTS = ("tests/modules/test_experts.py", "tests/models/test_pooling.py", "tests/data/test_loader.py")
TRAINING_TESTS = ("tests/train/test_gpu.py",)
DEVICE_TESTS = ("tests/train/test_devices.py", "tests/serve/test_devices.py")
SEVERAL_TESTS = ("tests/train/test_several_devices.py",)
_SEVERAL = 2  # GPUs
_OF_DOCTOR = ("torchrec", "fbgemm", "device", "backends", "speed")  # lines that the page repeats
_WINDOWS = 10


def _nothing(_: str) -> str:
    return ""


@dataclass(frozen=True)
class Part:
    """One process.

    Args:
        name: Of the part.
        what: It shows.
        command: Arguments of Python.
        seconds: Its time limit.
        tells: Its numbers, from its output; an error where it has shown nothing.
        skip: Why it is not run, or "".
        environment: That it needs.
    """

    name: str
    what: str
    command: tuple[str, ...]
    seconds: float
    tells: Callable[[str], str] = _nothing
    skip: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    Args:
        part: Which.
        state: Of it.
        seconds: That it took.
        says: Its numbers, or why it failed or was skipped.
        output: All that it printed, where it failed.
    """

    part: Part
    state: State
    seconds: float
    says: str
    output: str = ""

    @property
    def failed(self) -> bool:
        """Whether it ran and failed."""
        return self.state == "failed"


def parts_of(device: str, folder: Path, *, gpus: int, rows: int, steps: int, batch: int) -> list[Part]:
    """All parts, in their order.

    Args:
        device: "cpu" or "cuda".
        folder: For the dataset and the runs.
        gpus: That there are.
        rows: Of the synthetic dataset.
        steps: Of each training that is timed.
        batch: Samples of each of its steps.
    """
    data = folder / "data"
    prep = ("-m", "ple_rec", "prep", "tencent-synthetic", "--rows", str(rows), "--out", str(data), "--overwrite")
    return [
        Part("doctor", "versions fit, devices are seen", ("-m", "ple_rec", "doctor"), 60, found),
        _tests("kernels", "expert layers, pooling and copied batches are those of the CPU", device, KERNEL_TESTS, 90),
        _tests("training", "one rank ends in the weights of a CPU; bf16; fused Adam", device, TRAINING_TESTS, 120),
        _tests(
            "tables", "UVM caching, pipelines, exports and checkpoints of another device", device, DEVICE_TESTS, 180
        ),
        _tests("several", "ranks with a device each, NCCL on GPUs", device, SEVERAL_TESTS, 180, gpus=gpus),
        Part("data", f"{rows:,} rows of tencent-synthetic", prep, 180),
        *(_timed(name, device, folder, timed, steps, batch) for name, timed in TIMED[device].items()),
    ]


def _tests(name: str, what: str, device: str, files: tuple[str, ...], seconds: float, *, gpus: int = _SEVERAL) -> Part:
    chosen = ("-m", "gpu") if device == "cuda" else ("-m", "not gpu")
    command = ("-m", "pytest", "-q", "-rs", "--show-capture=no", "-p", "no:cacheprovider", *chosen, *files)
    skip = ""
    if not all(Path(file).is_file() for file in files):
        skip = "the tests are not here; run it in a clone of the repository"
    elif device == "cuda" and gpus < _SEVERAL:
        skip = f"needs {_SEVERAL} GPUs; torch sees {gpus}"
    elif device == "cpu" and files == TRAINING_TESTS:
        skip = "for a GPU alone"
    return Part(name, what, command, seconds, passed, skip, {"OMP_NUM_THREADS": "1"})


def _timed(name: str, device: str, folder: Path, timed: Timed, steps: int, batch: int) -> Part:
    run_dir = folder / name.replace(" ", "-")
    every = max(1, steps // _WINDOWS)
    if timed.own_batch:
        batch = load_config(RunConfig, timed.recipe, []).train.batch_size_per_rank or batch
    settings = (
        f"data.path={folder / 'data'}",
        f"runtime.device={device}",
        f"train.batch_size_per_rank={batch}",
        "train.epochs=",
        f"train.steps={steps}",
        f"train.report_every={every}",
        f"train.evaluate_every={steps}",
        "watch.tensorboard=false",
        *timed.keys,
    )
    command = ["-m", "ple_rec", "train", "--config", timed.recipe, "--run-dir", str(run_dir), "--overwrite"]
    for setting in settings:
        command += ["--set", setting]
    what = f"{timed.recipe}, {steps} steps of {batch:,} samples: {', '.join(timed.keys) or 'as the recipe has it'}"
    return Part(f"train {name}", what, tuple(command), 90, lambda _: speed(run_dir, batch) + beside_roofline(run_dir))


def found(text: str) -> str:
    """What doctor says of the wheels, the devices and their matrix products.

    Raises:
        ValueError: nothing.
    """
    lines = re.findall(rf"^\w+ +({'|'.join(_OF_DOCTOR)}) +(.+)$", text, re.MULTILINE)
    if not lines:
        raise ValueError("doctor says nothing of devices")
    return "; ".join(f"{name}: {value}" for name, value in lines)


def passed(text: str) -> str:
    """The last line of pytest.

    Raises:
        ValueError: no test has passed, or none was run.
    """
    lines = [line for line in text.splitlines() if re.search(r"\d+ (passed|skipped|deselected|failed|error)", line)]
    if not lines or " passed" not in f" {lines[-1]}":
        raise ValueError(f"no test has passed ({lines[-1].strip('= ') if lines else 'no summary'})")
    return lines[-1].strip("= ")
