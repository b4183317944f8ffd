"""Checks of `ple-rec doctor`: installed packages, their versions, and the devices and speed of this machine.

`run` prints the report and returns an exit code. Every check is a small function that returns findings. torch is
imported inside the checks that need it, so that the report also works if torch is absent or broken. A parameter `cuda`
is True if the machine has a CUDA driver. A parameter `versions` has the version of each installed package by name. A
`Stack` is a set of versions of torch, TorchRec and FBGEMM that load together; packages are compared with the stack to
which most of them belong (`nearest_stack`).
"""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ple_rec.runtime.cuda import driver_cuda_version, find_missing_gpu
from ple_rec.runtime.host import physical_memory_bytes, usable_cores, usable_memory_bytes
from ple_rec.runtime.versions import (
    CPU_WHEEL,
    CUDA_WHEEL,
    Stack,
    find_spark_problem,
    installed_versions,
    java_version,
    minor_version,
    nearest_stack,
    pip_command,
    public_version,
    pyspark_version,
    reinstall_fbgemm,
)
from ple_rec.text.units import gib_text

if TYPE_CHECKING:
    import torch

TORCHX = "0.7.0"
SUPPORTED_PYTHONS = ((3, 11), (3, 13))
# If two threads together reach less than this share of one thread's speed, they wait for each other.
MIN_TWO_THREAD_SPEED = 0.5


@dataclass(frozen=True)
class Finding:
    """Line of the report. If `ok` is false, `fix` is a command or an instruction that mends the problem."""

    name: str
    value: str
    ok: bool = True
    fix: str = ""


def cpu_extra(stack: Stack) -> list[str]:
    """Return the requirements of the extra `cpu`, without TorchRec, which would pull in FBGEMM's CUDA wheel.

    TorchRec's other requirements are listed instead, since TorchRec is installed without any (`install_command`).
    """
    fbgemm, torch = f"{CPU_WHEEL}=={stack.fbgemm}", f"torch=={stack.torch}"
    return [torch, fbgemm, "pyre-extensions", "tensorboard", "tensordict", "torchmetrics==1.0.3"]


def cuda_extra(stack: Stack) -> list[str]:
    """Return the requirements of the extra `cuda`."""
    return [f"torch=={stack.torch}", f"{CUDA_WHEEL}=={stack.fbgemm}", f"torchrec=={stack.torchrec}", "tensorboard"]


def install_command(cuda: bool, stack: Stack) -> str:
    """Return the command that installs torch, FBGEMM and TorchRec together."""
    if cuda:
        return f"{pip_command()} install {' '.join(cuda_extra(stack))}"
    return (
        f"{pip_command()} install {' '.join(cpu_extra(stack))} && "
        f"{pip_command()} install --no-deps torchrec=={stack.torchrec}"
    )


def check_python(version: tuple[int, ...]) -> Finding:
    """Check that the pinned packages have wheels for this version of Python."""
    low, high = SUPPORTED_PYTHONS
    value = f"{'.'.join(map(str, version))} ({sys.executable})"
    if low <= version[:2] <= high:
        return Finding("python", value)
    return Finding(
        "python", value, False, "make setup PYTHON=python3.11   (wheels exist for Python 3.11, 3.12 and 3.13)"
    )


def check_torch(versions: Mapping[str, str], cuda: bool) -> Finding:
    """Check that torch is installed, in the minor version that FBGEMM is built against."""
    version, stack = versions.get("torch"), nearest_stack(versions, cuda)
    if version is None:
        return Finding("torch", "not installed; training needs it", False, install_command(cuda, stack))
    if minor_version(version) == stack.torch_minor:
        return Finding("torch", version)
    rule = f"FBGEMM {stack.fbgemm} and torchrec {stack.torchrec} need torch {stack.torch_minor}"
    return Finding("torch", f"{version} does not fit: {rule}", False, f"{pip_command()} install torch=={stack.torch}")


def check_torchrec(versions: Mapping[str, str], cuda: bool) -> Finding:
    """Check that a version of torchrec is installed that fits torch."""
    version, stack = versions.get("torchrec"), nearest_stack(versions, cuda)
    if version == stack.torchrec:
        return Finding("torchrec", version)
    if version is None:
        return Finding("torchrec", "not installed; training needs it", False, install_command(cuda, stack))
    value = f"{version} does not fit: torch {stack.torch_minor} needs torchrec {stack.torchrec}"
    return Finding("torchrec", value, False, f"{pip_command()} install --no-deps torchrec=={stack.torchrec}")


def check_fbgemm(versions: Mapping[str, str], cuda: bool) -> Finding:
    """Check that exactly one wheel of FBGEMM is installed, that it fits torch, and that this machine can load it."""
    stack = nearest_stack(versions, cuda)
    wheels = [name for name in (CPU_WHEEL, CUDA_WHEEL) if name in versions]
    value = ", ".join(f"{name} {versions[name]}" for name in wheels)
    if not wheels:
        return Finding("fbgemm", "not installed; training needs it", False, install_command(cuda, stack))
    if len(wheels) == 2:
        rule = "both wheels own the folder fbgemm_gpu and overwrite each other"
        return Finding("fbgemm", f"{value}; {rule}", False, reinstall_fbgemm(cuda, stack))
    if public_version(versions[wheels[0]]) != stack.fbgemm:
        rule = f"does not fit: torch {stack.torch_minor} needs {stack.fbgemm}"
        return Finding("fbgemm", f"{value} {rule}", False, reinstall_fbgemm(cuda, stack))
    if wheels == [CUDA_WHEEL] and not cuda:
        rule = "no CUDA driver (libcuda.so.1) on this machine, and the CUDA wheel does not load without one"
        fix = f"{reinstall_fbgemm(False, stack)}   (or install the CUDA driver)"
        return Finding("fbgemm", f"{value}; {rule}", False, fix)
    return Finding("fbgemm", value)


def check_torchx(versions: Mapping[str, str]) -> Finding:
    """Check that the tested version of TorchX is installed; note if its local scheduler would not find torchrun."""
    version = versions.get("torchx")
    if version != TORCHX:
        value = f"{version or 'not installed'}; the components are written for {TORCHX}"
        return Finding("torchx", value, False, f"{pip_command()} install torchx=={TORCHX}")
    if shutil.which("torchrun") is None:
        folder = shlex.quote(str(Path(sys.executable).parent))
        return Finding("torchx", f"{version} (before `torchx run -s local_cwd`: export PATH={folder}:$PATH)")
    return Finding("torchx", version)


def check_spark() -> Finding:
    """Report whether `prep --engine spark` can run here. The finding is always ok, since nothing else needs Spark."""
    problem = find_spark_problem()
    if problem is None:
        return Finding("spark", f"PySpark {pyspark_version()}, Java {java_version()}")
    cause, fix = problem
    return Finding("spark", f"{cause}, which only `ple-rec prep --engine spark` needs; to have it: {fix}")


@contextmanager
def _silence_libraries() -> Iterator[None]:
    """Keep the libraries' own warnings and log lines out of the report."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def check_operators(versions: Mapping[str, str], cuda: bool) -> Finding:
    """Check that torch, FBGEMM and torchrec import, and that an operator of FBGEMM computes the right result."""
    stack = nearest_stack(versions, cuda)
    fix_all, fix_fbgemm = install_command(cuda, stack), reinstall_fbgemm(cuda, stack)
    fixes = {"torch": fix_all, "fbgemm_gpu": fix_fbgemm, "torchrec": fix_all}
    for module, fix in fixes.items():
        try:
            with _silence_libraries():
                importlib.import_module(module)
        # A broken wheel may raise anything.
        except Exception as error:
            return Finding("operators", f"{module} does not import: {_first_line(error)}", False, fix)
    import torch

    try:
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2, 3])).tolist()
    except Exception as error:  # A broken wheel may raise anything.
        value = f"FBGEMM does not run: {_first_line(error)}"
        return Finding("operators", value, False, fix_fbgemm)
    if offsets != [0, 1, 3, 6]:
        value = f"FBGEMM's cumulative sum of 1, 2, 3 is {offsets}; it must be [0, 1, 3, 6]"
        return Finding("operators", value, False, fix_fbgemm)
    return Finding("operators", "torch, FBGEMM and torchrec load; an FBGEMM operator computes")


def check_machine(folder: Path) -> list[Finding]:
    """Return cores, memory and disk as findings that are always ok."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    total, usable = physical_memory_bytes(), usable_memory_bytes()
    note = "" if usable == total else f", this container's limit {gib_text(usable)}"
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    disk = shutil.disk_usage(folder).free
    return [
        Finding("cores", f"{usable_cores()} usable of {os.cpu_count()}; OMP_NUM_THREADS {threads}"),
        Finding("memory", f"{gib_text(free)} free of {gib_text(total)}{note}"),
        Finding("disk", f"{gib_text(disk)} free in {folder}"),
    ]


def check_devices(versions: Mapping[str, str], cuda: bool) -> list[Finding]:
    """Check the devices that torch sees and training uses, and that torch has a process-group backend.

    It is a problem if torch sees no GPU beside FBGEMM's CUDA wheel, since training refuses to begin.
    """
    import torch
    import torch.distributed as dist

    stack = nearest_stack(versions, cuda)
    missing_gpu = find_missing_gpu()
    if missing_gpu is None:
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        device = ", ".join(f"{p.name} ({gib_text(p.total_memory, 0)})" for p in properties)
        if CPU_WHEEL in versions and CUDA_WHEEL not in versions:
            change = f"to train on the GPU: {reinstall_fbgemm(True, stack)}"
            device += f"; training runs on the CPU, since FBGEMM's CPU wheel is installed; {change}"
    elif CUDA_WHEEL in versions:
        device = f"no GPU: {missing_gpu.cause}; {missing_gpu.rule}"
    elif cuda:
        device = f"cpu, since FBGEMM's CPU wheel is installed (a CUDA driver is here, too; {missing_gpu.cause})"
    else:
        device = "cpu"
    device_fix = "" if missing_gpu is None or CUDA_WHEEL not in versions else missing_gpu.fix
    available = {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available(), "mpi": dist.is_mpi_available()}
    backends = [name for name, is_available in available.items() if is_available]
    fix = "" if backends else install_command(cuda, stack)
    return [
        Finding("device", f"{device}; torch uses {torch.get_num_threads()} threads", not device_fix, device_fix),
        Finding("backends", ", ".join(backends) or "none", bool(backends), fix),
    ]


def describe_speed(gflops: Mapping[str, float | None]) -> Finding:
    """Return a finding with the GFLOP/s of each precision beside fp32; None stands for a precision without support."""
    base = gflops["fp32"]
    parts = []
    for name, speed in gflops.items():
        if speed is None:
            parts.append(f"{name} not supported")
        elif name == "fp32" or not base:
            parts.append(f"{name} {speed:.0f}")
        else:
            parts.append(f"{name} {speed:.0f} ({speed / base:.2f}x)")
    return Finding("speed", f"{', '.join(parts)} GFLOP/s")


def measure_speed(device: torch.device) -> dict[str, float | None]:
    """Return the GFLOP/s of a matrix product in fp32, bf16 and fp16; None if the device lacks the precision."""
    import torch

    from ple_rec.models.cpu.gemm_probe import gemm_gflops

    gflops: dict[str, float | None] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        try:
            gflops[name] = gemm_gflops(dtype, device, seconds=0.2)
        except RuntimeError:
            gflops[name] = None
    return gflops


def measure_threads(threads: int) -> float:
    """Return the GFLOP/s of a matrix product in fp32 on the CPU with `threads` threads."""
    import torch

    from ple_rec.models.cpu.gemm_probe import gemm_gflops

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return gemm_gflops(torch.float32, "cpu", seconds=0.15)
    finally:
        torch.set_num_threads(before)


def check_threads(cores: int, load: float, measure: Callable[[int], float]) -> Finding:
    """Check that two threads are not much slower than one, as they are if a CPU quota makes them wait for each other.

    If two threads are much slower, both speeds are measured a second time before they count.

    Args:
        cores: Number of cores that this process may use.
        load: Mean number of runnable processes on the machine over the last minute, from `os.getloadavg`. If it exceeds
            half of the cores, other processes may be the cause, so the finding is no problem.
        measure: Function that returns GFLOP/s for a number of threads.
    """
    if cores < 2:
        return Finding("threads", "one core; one thread")
    for _ in range(2):
        one, two = measure(1), measure(2)
        if two >= MIN_TWO_THREAD_SPEED * one:
            break
    value = f"fp32 {one:.0f} GFLOP/s with 1 thread, {two:.0f} with 2"
    if two >= MIN_TWO_THREAD_SPEED * one:
        return Finding("threads", value)
    if load > cores / 2:
        busy = f"other processes use the cores (load {load:.1f}): check again later, or export OMP_NUM_THREADS=1"
        return Finding("threads", f"{value}; {busy}")
    fix = "export OMP_NUM_THREADS=1   (or raise the container's CPU limit)"
    return Finding("threads", f"{value}; threads wait for each other", False, fix)


def collect_findings() -> list[Finding]:
    """Return all findings in the order of the report, without those that need torch if it does not load."""
    # The load is read first, because the measurements below would add to it.
    load = os.getloadavg()[0]
    cuda, versions = driver_cuda_version() is not None, installed_versions()
    package_findings = [check_torch(versions, cuda), check_torchrec(versions, cuda), check_fbgemm(versions, cuda)]
    findings = [check_python(sys.version_info[:3]), *package_findings, check_torchx(versions), check_spark()]
    if "torch" in versions:
        operators = check_operators(versions, cuda)
        if not operators.ok and not all(finding.ok for finding in package_findings):
            operators = replace(operators, fix="first correct the versions above")
        findings.append(operators)
    findings += check_machine(Path.cwd())
    try:
        with _silence_libraries():
            import torch

            device = torch.device("cuda" if torch.cuda.is_available() and CUDA_WHEEL in versions else "cpu")
    # Torch does not load; `check_torch` or `check_operators` has reported the cause.
    except Exception:
        return findings
    with _silence_libraries():
        findings += check_devices(versions, cuda)
        findings.append(describe_speed(measure_speed(device)))
        findings.append(check_threads(usable_cores(), load, measure_threads))
    return findings


def render(findings: list[Finding]) -> str:
    """Return the report: a line for each finding, a fix below each problem, and the number of problems."""
    lines, fixes = [], set()
    for finding in findings:
        lines.append(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<10} {finding.value}")
        if not finding.ok:
            lines.append(f"     {'':<10} fix: {'the same' if finding.fix in fixes else finding.fix}")
            fixes.add(finding.fix)
    problems = sum(not finding.ok for finding in findings)
    lines.append("all is well" if not problems else f"{problems} {'problem' if problems == 1 else 'problems'}; see fix")
    return "\n".join(lines)


def run() -> int:
    """Print the report and return the exit code: 0 without problems, else 2."""
    findings = collect_findings()
    print(render(findings))
    return 0 if all(finding.ok for finding in findings) else 2
