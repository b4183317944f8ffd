"""Ways to do the same work, measured side by side: each in a process of its own, one pass after the other in turn.

What else runs on the machine then slows all of them alike, and the peak memory of each is its own. The first pass of
each is a warm-up, unless it would take minutes, and does not count.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from ple_rec.errors import PleRecError
from ple_rec.parallel.host import physical_memory_bytes, usable_cores

Pass = Callable[[], int]  # does the work once and says how much of it

_PACKAGES = ("numpy", "pyarrow", "torch", "duckdb")


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Args:
        name: Of its lines `<name>_...=value`.
        title: For people.
        make: Called once, in the process that does the work; gives a pass. It and its arguments are pickled.
        pinned: Whether the process has one core only.
        workers: Processes that it starts itself.
    """

    name: str
    title: str
    make: Callable[[], Pass]
    pinned: bool = True
    workers: int = 0


@dataclass(frozen=True)
class Measured:
    """What the passes of a contender showed.

    Args:
        contender: Which.
        rates: Work per second of each pass.
        cpu_rates: Work per second of processor time, which other programs slow down less.
        idle_bytes: Resident memory before the first pass.
        peak_bytes: The most resident memory, with that of its workers.
    """

    contender: Contender
    rates: tuple[float, ...]
    cpu_rates: tuple[float, ...]
    idle_bytes: int
    peak_bytes: int

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.contender.title,
            "pinned": self.contender.pinned,
            "workers": self.contender.workers,
            "rates": list(self.rates),
            "cpu_rates": list(self.cpu_rates),
            "median": statistics.median(self.rates),
            "min": min(self.rates),
            "max": max(self.rates),
            "cpu_median": statistics.median(self.cpu_rates),
            "idle_bytes": self.idle_bytes,
            "peak_bytes": self.peak_bytes,
        }


def conditions(threads: int | None = None) -> dict[str, Any]:
    """Under which a measurement starts: processor, cores, threads, load, memory, versions.

    Args:
        threads: Of each measured process, where all have as many.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": threads,
        "load_before": list(os.getloadavg()),
        "memory_bytes": physical_memory_bytes(),
        "kernel": platform.release(),
        "versions": {"python": platform.python_version()} | versions,
    }


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the processor says it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def race(
    contenders: Sequence[Contender], repeats: int, say: Callable[[str], None], *, warm_up: bool = True
) -> list[Measured]:
    """Measure each contender `repeats` times, in turns.

    Args:
        contenders: Which.
        repeats: Passes of each that count.
        say: Told of every pass.
        warm_up: Whether each makes a pass first that does not count; not where a pass takes minutes.

    Raises:
        PleRecError: what a contender raises; any other error of it becomes a `RuntimeError` of the same text.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(_Child(contender)) for contender in contenders]
        idle: list[int] = [child.receive() for child in children]
        passes: list[list[_Timed]] = [[] for _ in contenders]
        first = 0 if warm_up else 1
        for turn in range(first, repeats + 1):
            for done, child in zip(passes, children, strict=True):
                done.append(child.run())
                number = f"pass {turn} of {repeats}" if turn else "warm-up"
                say(f"{number}: {child.contender.title} {done[-1].rate:,.0f}/s")
    return [
        Measured(
            contender,
            tuple(each.rate for each in done[-repeats:]),
            tuple(each.cpu_rate for each in done[-repeats:]),
            before,
            done[-1].peak_bytes,
        )
        for contender, before, done in zip(contenders, idle, passes, strict=True)
    ]


class _Timed(NamedTuple):
    rate: float
    cpu_rate: float
    peak_bytes: int  # so far


class _Child:
    """The process of a contender, which waits between its passes."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        core = max(os.sched_getaffinity(0)) if contender.pinned else None
        self.process = context.Process(target=_serve, args=(far, contender.make, core, contender.workers))
        self.process.start()
        far.close()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.pipe.close()  # it ends when it asks what is next
        if kind is not None:
            self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()

    def run(self) -> _Timed:
        """One pass."""
        self.pipe.send("go")
        return _Timed(*self.receive())

    def receive(self) -> Any:
        """What the process sends next, or raises."""
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"{self.contender.title}: its process ended with {self.process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, make: Callable[[], Pass], core: int | None, workers: int) -> None:
    try:
        once = make()
        if core is not None:  # all threads that there are; later ones inherit it
            for task in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):  # a thread that has ended since
                    os.sched_setaffinity(int(task.name), {core})
        pipe.send(resident_bytes("VmRSS"))
        while True:
            pipe.recv()
            begun, cpu = time.perf_counter(), sum(os.times()[:4])  # with workers that have ended
            amount = once()
            seconds, cpu = time.perf_counter() - begun, sum(os.times()[:4]) - cpu
            # The kernel counts the largest of the processes that have ended.
            theirs = workers * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            pipe.send((amount / seconds, amount / max(cpu, 0.01), resident_bytes("VmHWM") + theirs))
    except (EOFError, BrokenPipeError):  # no more is wanted
        return
    except PleRecError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def resident_bytes(key: str, process: int | str = "self") -> int:
    """Resident memory of a process, this one unless another is named, in bytes: VmRSS now, VmHWM at most."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no {key}")
