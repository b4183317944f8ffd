"""Put each fault of the folder `faults` into a copy of the tree, and tell which test catches it.

    python -m tests.mutations.run [PART_OF_A_NAME ...] [--jobs N]

The copy holds what git tracks and what it does not ignore. The tests of a fault run first without it. Exit code 1: a
fault survived, has moved, is invalid, or could not be tried. A fault is invalid if the code with it uses a name that
nothing defines, cannot be imported, or keeps pytest from collecting the tests: any test would notice that.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.mutations.fault import Fault
from tests.mutations.faults import FAULTS
from tests.project_files import project_files

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
MOST_SECONDS = 600  # of the tests of a fault; one that hangs them is caught
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run of tests.

    Args:
        passed: Flag that all tests passed.
        first: First test that failed, or what else went wrong.
        seconds: Duration.
        ran: False if pytest ended before it ran a test, as when a test file cannot be imported.
    """

    passed: bool
    first: str
    seconds: float
    ran: bool = True


@dataclass(frozen=True)
class Fate:
    """What became of a fault.

    Args:
        fault: Fault.
        caught: Flag that a test failed by it.
        text: Outcome in words.
        seconds: Duration of its tests.
    """

    fault: Fault
    caught: bool
    text: str
    seconds: float = 0.0


class Copies:
    """Copies of a tree, each for one run of tests at a time.

    Args:
        root: Root of the tree, a git repository.
        folder: Empty folder for the copies.
        count: Number of copies.
    """

    def __init__(self, root: Path, folder: Path, count: int) -> None:
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for i in range(count):
            copy_tree(root, copy := folder / f"copy-{i}")
            check_imports(copy)
            self._free.put(copy)

    def use(self, work: Callable[[Path], T]) -> T:
        """Return what `work` makes of a copy that nobody else uses."""
        copy = self._free.get()
        try:
            return work(copy)
        finally:
            self._free.put(copy)


def copy_tree(root: Path, copy: Path) -> None:
    """Copy the files that git tracks, and those that it neither tracks nor ignores, into a repository of their own.

    Tests of the copy ask git for its files.
    """
    copy.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    for file in project_files((), root=root):
        copied = copy / file.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copied)


def check_imports(copy: Path) -> None:
    """Refuse a copy that processes elsewhere, which have its environment alone, would not import.

    The tree may be installed in editable mode, from where its packages would come as well.

    Raises:
        RuntimeError: a package comes from another place.
    """
    for package in sorted(file.parent.name for file in copy.glob("*/__init__.py")):
        code = f"import {package}; print({package}.__file__)"
        command = [sys.executable, "-P", "-c", code]
        run = subprocess.run(command, cwd="/", env=_environment(copy), check=True, capture_output=True, text=True)
        if not Path(run.stdout.strip()).is_relative_to(copy):
            raise RuntimeError(f"{package} comes from {run.stdout.strip()} and not from {copy}")


@contextmanager
def changed(file: Path, source: str) -> Iterator[None]:
    """Give a file of a copy another source for the duration of a block.

    Python takes a compiled form for that of a source with the same size and second of change, so it is removed.
    """
    compiled = Path(importlib.util.cache_from_source(str(file)))
    before = file.read_bytes()
    try:
        file.write_bytes(source.encode())
        compiled.unlink(missing_ok=True)
        yield
    finally:
        file.write_bytes(before)
        compiled.unlink(missing_ok=True)


def run_tests(copy: Path, tests: Sequence[str], most_seconds: float = MOST_SECONDS) -> Outcome:
    """Run tests of a copy until one fails."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    with subprocess.Popen(
        command,
        cwd=copy,
        env=_environment(copy),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=most_seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Outcome(False, f"no end within {most_seconds:.0f} s", time.monotonic() - begun)
    seconds = time.monotonic() - begun
    if process.returncode == 0:
        return Outcome(True, "", seconds)
    found = _FAILED.search(output)
    first = found[1] if found else f"pytest ended with {process.returncode}"
    return Outcome(False, first, seconds, ran=process.returncode == pytest.ExitCode.TESTS_FAILED)


def try_fault(copy: Path, fault: Fault) -> Fate:
    """Run the tests of a fault on a copy that has it, and take it back."""
    if (count := fault.count(copy)) != 1:
        return Fate(fault, False, f"MOVED: its text stands {count} times in {fault.file}: write it anew")
    file = copy / fault.file
    with changed(file, fault.changed(file.read_text(encoding="utf-8"))):
        if problem := undefined_names(copy, fault.file) or import_problem(copy, fault.file):
            return Fate(fault, False, f"INVALID: {problem}")
        outcome = run_tests(copy, fault.tests)
    if not (outcome.passed or outcome.ran):
        return Fate(fault, False, f"INVALID: {outcome.first}", outcome.seconds)
    text = "SURVIVED" if outcome.passed else outcome.first
    return Fate(fault, not outcome.passed, text, outcome.seconds)


def undefined_names(folder: Path, below: str = ".") -> str:
    """Return the lines in which ruff reports names that nothing defines in a file or folder; empty without any."""
    rules = ["--isolated", "--no-cache", "--quiet", "--select", "F821,F823", "--output-format", "concise"]
    ruff = [sys.executable, "-m", "ruff", "check", *rules, below]
    return subprocess.run(ruff, cwd=folder, check=False, capture_output=True, text=True).stdout.strip()


def import_problem(copy: Path, file: str) -> str:
    """Return the last line of what Python says when it cannot import a module of a copy; empty if it can."""
    module = ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")
    command = [sys.executable, "-P", "-c", f"import {module}"]
    run = subprocess.run(command, cwd="/", env=_environment(copy), check=False, capture_output=True, text=True)
    return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or ["import failed"])[-1]


def run(root: Path, faults: Sequence[Fault], jobs: int, say: Callable[[str], object]) -> list[Fate]:
    """Try faults on copies of a tree.

    Args:
        root: Root of the tree.
        faults: Faults to try.
        jobs: Number of faults tried at a time.
        say: Receiver of a line for each run of tests, when it has ended.
    """
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder, ThreadPoolExecutor(jobs) as pool:
        copies = Copies(root, Path(folder), jobs)
        without: dict[tuple[str, ...], Outcome] = {}

        def run_without(tests: tuple[str, ...]) -> None:
            outcome = without[tests] = copies.use(lambda copy: run_tests(copy, tests))
            told = "passed" if outcome.passed else f"FAILED: {outcome.first}"
            say(f"{outcome.seconds:5.0f} s  without a fault: {' '.join(tests)}  {told}")

        list(pool.map(run_without, dict.fromkeys(fault.tests for fault in faults)))  # raises what one raised

        def judge(fault: Fault) -> Fate:
            before = without[fault.tests]
            if not before.passed:
                return Fate(fault, False, f"NOT TRIED: {before.first} fails without it", before.seconds)
            return copies.use(lambda copy: try_fault(copy, fault))

        fates = []
        for fate in pool.map(judge, faults):
            say(f"{fate.seconds:5.0f} s  {fate.fault.name:90}  {fate.text}")
            fates.append(fate)
    return fates


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the faults that the command line names, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of the name of a fault; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at a time (default 1)")
    options = parser.parse_args(arguments)
    chosen = [f for f in FAULTS if not options.names or any(n.lower() in f.name.lower() for n in options.names)]
    if not chosen:
        parser.error(f"no fault is named like {', '.join(options.names)}; names: tests/mutations/faults.py")
    fates = run(ROOT, chosen, options.jobs, _say)
    caught = sum(fate.caught for fate in fates)
    _say(f"{caught} of {len(fates)} faults are caught")
    return 0 if caught == len(fates) else 1


def _environment(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
