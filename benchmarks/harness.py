"""Harness of the benchmarks: it measures cases, that is, several ways to do the same work.

A pass of a case does the work once, and in a turn each case makes one pass. Each case has processes of its own, which
wait between its passes. Since the passes of the cases alternate, other programs on the machine slow all of them alike.
The first turn is a warm-up and does not count. A limit of the machine, such as the rate of a copy of memory, is
measured as a further case in the same run.
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
from ple_rec.text import align_columns

_JOIN_SECONDS = 10.0  # A process that has not ended by itself after this time is killed.
_PACKAGES = ("torch", "torchrec", "numpy", "pyarrow", "duckdb")


class PassResult(NamedTuple):
    """Work that one process did in one pass.

    Args:
        amount: Amount of work, in the unit of the benchmark.
        seconds: Duration of the work.
        peak_bytes: Largest resident memory so far of the processes that did the work, added up; None if the process
            that returns this result did the work itself, so that the harness measures it.
    """

    amount: float
    seconds: float
    peak_bytes: int | None = None


# Function that does the work once.
Pass = Callable[[], PassResult]


@dataclass(frozen=True)
class BenchmarkCase:
    """Way to do the work of a benchmark.

    Args:
        title: Title of its line in the printed table.
        open_pass: Function whose context manager prepares the work and yields the function that does it. It is pickled,
            and called in each process.
        ranks: Number of processes. If there are several, they have the environment of torchrun, so that they can form a
            process group.
        is_baseline: True for the case by whose rate the rates of all cases are divided, turn by turn.
    """

    title: str
    open_pass: Callable[[], AbstractContextManager[Pass]]
    ranks: int = 1
    is_baseline: bool = False


@dataclass
class MeasuredRates:
    """Rates of the passes of a case.

    Args:
        title: Title of the case.
        rates: Work per second of each pass that counts, of all ranks together.
        peak_bytes: Largest resident memory of each process up to the last pass, added up over its processes.
    """

    title: str
    rates: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Median rate."""
        return statistics.median(self.rates)


def time_work(work: Callable[[], object], amount: float) -> PassResult:
    """Do some work and time it.

    Args:
        work: Function that does the work.
        amount: Amount of the work, in the unit of the benchmark.
    """
    begun = time.perf_counter()
    work()
    return PassResult(amount, time.perf_counter() - begun)


def race(cases: Sequence[BenchmarkCase], repeats: int) -> list[MeasuredRates]:
    """Measure the cases in turn, each `repeats` times after a warm-up, and return their rates in the order of `cases`.

    Raises:
        PleRecError: The work of a case has raised this error.
        RuntimeError: The work of a case has raised another error, or a process has ended.
    """
    measured = [MeasuredRates(case.title) for case in cases]
    with ExitStack() as stack:
        processes = [stack.enter_context(_Processes(case)) for case in cases]
        for turn in range(repeats + 1):
            # The order alternates, so that load that grows or falls favours no case.
            for result, case_processes in list(zip(measured, processes, strict=True))[:: 1 if turn % 2 else -1]:
                rate, result.peak_bytes = case_processes.run()
                if turn:
                    result.rates.append(rate)
                say(f"{f'turn {turn} of {repeats}' if turn else 'warm-up'}: {result.title} {_number_text(rate)}/s")
    return measured


def say(text: str) -> None:
    """Print a line of progress to standard error."""
    sys.stderr.write(f"{text}\n")


def report(
    args: argparse.Namespace, unit: str, cases: Sequence[BenchmarkCase], measured: Sequence[MeasuredRates]
) -> None:
    """Print a table of the rates, and write each rate to the file of `--json`, if it is given.

    Args:
        args: Arguments of the benchmark.
        unit: Unit of the work, such as "rows".
        cases: Cases that were measured.
        measured: Rates of each case, in the order of `cases`.
    """
    baseline = next((result for case, result in zip(cases, measured, strict=True) if case.is_baseline), None)
    share_heading = "" if baseline is None else f"of {baseline.title}"
    rows: list[tuple[str, ...]] = [("", f"{unit}/s", "min", "max", share_heading, "MiB peak")]
    for result in measured:
        shares = [] if baseline is None else [a / b for a, b in zip(result.rates, baseline.rates, strict=True)]
        numbers = [_number_text(value) for value in (result.median, min(result.rates), max(result.rates))]
        share = f"{statistics.median(shares):.3f}" if shares else ""
        rows.append((result.title, *numbers, share, f"{result.peak_bytes / 2**20:,.0f}"))
    sys.stdout.write("\n".join([*align_columns(rows), "", *(f"{k}: {v}" for k, v in conditions(args).items())]) + "\n")
    if args.json is not None:
        record = {"unit": unit, "conditions": conditions(args), "measured": [vars(result) for result in measured]}
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """Return the conditions of a measurement: machine, versions, arguments."""
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return {
        "machine": f"{describe_machine()}, load {os.getloadavg()[0]:.1f}",
        "versions": f"python {platform.python_version()} {versions}",
        "arguments": " ".join(f"{name}={value}" for name, value in vars(args).items() if name != "json"),
    }


def describe_machine() -> str:
    """Return the processor and the number of its cores that this process may use."""
    return f"{_cpu_name()}, {usable_cores()} cores"


def parser(text: str | None, *, repeats: int = 10) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks.

    Args:
        text: Docstring of the benchmark's module, which is shown as help.
        repeats: Default of `--repeats`.
    """
    arguments = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--repeats", type=int, default=repeats, metavar="N", help=f"turns that count; default {repeats}"
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the results to a file, too")
    return arguments


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a context manager for a folder of datasets and runs, which is removed at its end."""
    return tempfile.TemporaryDirectory(prefix="ple-rec-bench-")


class _Processes:
    """Processes of a case, which wait between its passes."""

    def __init__(self, case: BenchmarkCase) -> None:
        context = multiprocessing.get_context("spawn")
        # Through this store the ranks form their process group, as they would through the store of torchrun.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(case.ranks):
            pipe, child_pipe = context.Pipe()
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(case.ranks),
                "LOCAL_WORLD_SIZE": str(case.ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            process = context.Process(
                target=_run_passes, args=(child_pipe, case.open_pass, environment if case.ranks > 1 else {})
            )
            process.start()
            child_pipe.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *error: object) -> None:
        # A process ends when its pipe is closed while it waits for the next pass.
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_JOIN_SECONDS)
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
            done |= {rank: _receive(pipe) for rank, pipe in enumerate(self._pipes) if pipe in ready}
        rate = sum(result.amount for result in done.values()) / max(result.seconds for result in done.values())
        return rate, sum(result.peak_bytes or 0 for result in done.values())


def _receive(pipe: Connection) -> PassResult:
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError("a process ended without an answer; its output is above") from None
    if isinstance(answer, Exception):
        raise answer
    return PassResult(*answer)


def _run_passes(
    pipe: Connection, open_pass: Callable[[], AbstractContextManager[Pass]], environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    try:
        with open_pass() as run_pass:
            while pipe.recv():
                done = run_pass()
                pipe.send(done._replace(peak_bytes=done.peak_bytes or peak_bytes()))
    except EOFError:  # The parent has closed the pipe.
        return
    except PleRecError as error:
        pipe.send(error)
    except Exception as error:  # The parent raises it; an error of any library may be impossible to pickle.
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def peak_bytes(process: int | str = "self") -> int:
    """Return the largest resident memory so far of a process, given by its id, in bytes; "self" is this process."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{process}/status has no VmHWM")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _number_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
