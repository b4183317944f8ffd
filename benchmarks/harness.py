"""Race between ways to do the same work: each has processes of its own, and the passes take turns.

Other programs on the machine then slow all ways alike, and the peak memory of each is its own. The first pass of each
is a warm-up and does not count. A bound of the work, such as a copy of memory, is measured as a way in the same run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from ple_rec.errors import PleRecError
from ple_rec.runtime.host import usable_cores
from ple_rec.text import aligned

_END_SECONDS = 10.0
_PACKAGES = ("torch", "torchrec", "numpy", "pyarrow", "duckdb")


class PassResult(NamedTuple):
    """Work of one pass of one process.

    Args:
        amount: Amount of work, in the unit of the benchmark.
        seconds: Seconds that it took.
        peak_bytes: Largest resident memory so far of another process that did the work; None: that of this one.
    """

    amount: float
    seconds: float
    peak_bytes: int | None = None


Pass = Callable[[], PassResult]


@dataclass(frozen=True)
class Way:
    """Way to do the work.

    Args:
        title: Name of its row in the table.
        make: Function that returns a context, whose value does one pass; it is pickled and called in each process.
        ranks: Number of processes; their environment is that of torchrun, so they can form a process group.
        limit: True for the way by whose rate those of the others are divided, turn by turn.
    """

    title: str
    make: Callable[[], AbstractContextManager[Pass]]
    ranks: int = 1
    limit: bool = False


@dataclass
class Measured:
    """Rates of the passes of a way.

    Args:
        title: Title of the way.
        rates: Work per second of every pass, of all ranks together.
        peak_bytes: Largest resident memory of all its processes together.
    """

    title: str
    rates: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Median rate."""
        return statistics.median(self.rates)


def timed(work: Callable[[], object], amount: float) -> PassResult:
    """Do some work and time it."""
    begun = time.perf_counter()
    work()
    return PassResult(amount, time.perf_counter() - begun)


def race(ways: Sequence[Way], repeats: int) -> list[Measured]:
    """Measure each way `repeats` times, by turns.

    Raises:
        PleRecError: A process has raised this error.
        RuntimeError: A process has raised another error, or has ended.
    """
    measured = [Measured(way.title) for way in ways]
    with ExitStack() as stack:
        processes = [stack.enter_context(_Processes(way)) for way in ways]
        for turn in range(repeats + 1):
            # The order alternates, so that load that grows or falls favours no way.
            for result, own in list(zip(measured, processes, strict=True))[:: 1 if turn % 2 else -1]:
                rate, result.peak_bytes = own.run()
                if turn:
                    result.rates.append(rate)
                say(f"{f'turn {turn} of {repeats}' if turn else 'warm-up'}: {result.title} {_number(rate)}/s")
    return measured


def say(text: str) -> None:
    """Print a line of progress to standard error."""
    sys.stderr.write(f"{text}\n")


def report(args: argparse.Namespace, unit: str, ways: Sequence[Way], measured: Sequence[Measured]) -> None:
    """Print a table, and write every rate to `--json FILE`."""
    limit = next((result for way, result in zip(ways, measured, strict=True) if way.limit), None)
    beside = "" if limit is None else f"of {limit.title}"
    rows: list[tuple[str, ...]] = [("", f"{unit}/s", "min", "max", beside, "MiB peak")]
    for result in measured:
        shares = [] if limit is None else [a / b for a, b in zip(result.rates, limit.rates, strict=True)]
        numbers = [_number(value) for value in (result.median, min(result.rates), max(result.rates))]
        share = f"{statistics.median(shares):.3f}" if shares else ""
        rows.append((result.title, *numbers, share, f"{result.peak_bytes / 2**20:,.0f}"))
    sys.stdout.write("\n".join([*aligned(rows), "", *(f"{k}: {v}" for k, v in conditions(args).items())]) + "\n")
    if args.json is not None:
        record = {"unit": unit, "conditions": conditions(args), "measured": [vars(result) for result in measured]}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """Return the conditions of a measurement: machine, versions, arguments."""
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return {
        "machine": f"{machine()}, load {os.getloadavg()[0]:.1f}",
        "versions": f"python {platform.python_version()} {versions}",
        "arguments": " ".join(f"{name}={value}" for name, value in vars(args).items() if name != "json"),
    }


def machine() -> str:
    """Return the processor and the number of its cores that this process may use."""
    return f"{_cpu_name()}, {usable_cores()} cores"


def parser(text: str | None, *, repeats: int = 10) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks.

    Args:
        text: Docstring of the module.
        repeats: Default of `--repeats`.
    """
    arguments = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--repeats", type=int, default=repeats, metavar="N", help=f"turns that count; default {repeats}"
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the results to a file, too")
    return arguments


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for datasets and runs, which is removed at the end."""
    return tempfile.TemporaryDirectory(prefix="ple-rec-bench-")


class _Processes:
    """Processes of a way, which wait between its passes."""

    def __init__(self, way: Way) -> None:
        context = multiprocessing.get_context("spawn")
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(way.ranks):
            pipe, far = context.Pipe()
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(way.ranks),
                "LOCAL_WORLD_SIZE": str(way.ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            process = context.Process(target=_serve, args=(far, way.make, environment if way.ranks > 1 else {}))
            process.start()
            far.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *error: object) -> None:
        # A process ends when it waits for its next pass.
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_END_SECONDS)
            process.kill()
            process.join()

    def run(self) -> tuple[float, int]:
        """Run one pass; return the rate of all ranks together, and their peak memory so far."""
        for pipe in self._pipes:
            pipe.send("go")
        done = dict[int, PassResult]()
        # The first error ends the pass, since the other ranks may wait for the one that failed.
        while len(done) < len(self._pipes):
            ready = wait([pipe for rank, pipe in enumerate(self._pipes) if rank not in done])
            done |= {rank: _received(pipe) for rank, pipe in enumerate(self._pipes) if pipe in ready}
        rate = sum(each.amount for each in done.values()) / max(each.seconds for each in done.values())
        return rate, sum(each.peak_bytes or 0 for each in done.values())


def _received(pipe: Connection) -> PassResult:
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError("a process ended without an answer; its output is above") from None
    if isinstance(answer, Exception):
        raise answer
    return PassResult(*answer)


def _serve(pipe: Connection, make: Callable[[], AbstractContextManager[Pass]], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    try:
        with make() as once:
            while pipe.recv():
                done = once()
                pipe.send(done._replace(peak_bytes=done.peak_bytes or peak_bytes()))
    # The race is over.
    except EOFError:
        return
    except PleRecError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def peak_bytes(process: int | str = "self") -> int:
    """Return the largest resident memory of a process so far, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no VmHWM")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
