"""The public doors alone: verbs of `ple-rec`, a server that it starts. What is behind them may move."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from ple_rec.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
RULE = (
    "Users hold this on disk, on the wire or in scripts. Keep it as it was; or, where it has to change, read the old "
    "form too (migrate it on reading), say so in CHANGELOG.md, and put new artefacts beside these as "
    "tests/golden/README.md describes. Never make these anew so that a test passes."
)
_SIGNAL_SECONDS = 60.0
_AGAIN_SECONDS = 20.0


class Said(NamedTuple):
    """How a verb ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def ple_rec(*argv: str, at: Path) -> Said:
    """Run `ple-rec ARGV` in this process, with `at` as the working directory.

    Args:
        argv: The verb and its arguments; paths are relative to `at`, so that no artefact holds a path of this machine.
        at: The working directory.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(at),
        patch.dict(os.environ, _environment(at)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(list(argv))
        except SystemExit as error:  # of --help
            code = error.code if isinstance(error.code, int) else 0
    return Said(code, out.getvalue(), err.getvalue())


def ple_rec_apart(*argv: str, at: Path) -> Said:
    """Run `ple-rec ARGV` in a process of its own, as an agent of ranks needs one: it takes over all signals."""
    command, environment = [sys.executable, "-m", "ple_rec", *argv], os.environ | _environment(at)
    done = subprocess.run(command, cwd=at, env=environment, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def succeed(*argv: str, at: Path, apart: bool = False) -> str:
    """Run `ple-rec ARGV` and return what it printed.

    Args:
        argv: The verb and its arguments.
        at: The working directory.
        apart: Whether in a process of its own.

    Raises:
        AssertionError: it ends with another exit code than 0.
    """
    said = (ple_rec_apart if apart else ple_rec)(*argv, at=at)
    assert said.code == 0, f"ple-rec {' '.join(argv)} ends with exit code {said.code}: {said.err}\n{RULE}"
    return said.out


def ple_rec_with_signal(number: signal.Signals, once_there: str, *argv: str, at: Path) -> Said:
    """Run `ple-rec ARGV` and send this process a signal once a file is there.

    Args:
        number: The signal.
        once_there: A file below `at` that the verb writes while it works.
        argv: The verb and its arguments.
        at: The working directory.
    """
    ended = threading.Event()
    late = time.monotonic() + _SIGNAL_SECONDS

    def send() -> None:
        while not ended.wait(0.01) and time.monotonic() < late:
            if (at / once_there).is_file() and (at / once_there).stat().st_size:
                os.kill(os.getpid(), number)
                while not ended.wait(_AGAIN_SECONDS):  # Python loses a KeyboardInterrupt that comes in a destructor
                    os.kill(os.getpid(), number)
                return

    def unheard(*_: Any) -> None:
        raise AssertionError(f"ple-rec {argv[0]} does not handle {number.name}")

    before = signal.signal(number, unheard) if number is not signal.SIGINT else None
    sender = threading.Thread(target=send)
    sender.start()
    try:
        return ple_rec(*argv, at=at)
    finally:
        ended.set()
        sender.join()
        if before is not None:
            signal.signal(number, before)


@contextlib.contextmanager
def serving(model: str, at: Path) -> Iterator[str]:
    """Run `ple-rec serve MODEL` in a process of its own and yield its address.

    Args:
        model: The model directory, relative to `at`.
        at: The working directory.

    Raises:
        AssertionError: it does not start, or does not end with 0 when it is asked to stop.
    """
    command = [sys.executable, "-m", "ple_rec", "serve", model, "--port", "0", "--threads", "1"]
    log, environment = at / "server.log", os.environ | _environment(at)
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, cwd=at, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True) as server,
    ):
        assert server.stdout is not None
        try:
            line = server.stdout.readline()  # ends where the process does
            address = re.search(r"http://\S+", line)
            assert address, f"ple-rec serve printed {line!r}, no address: {log.read_text()}"
            yield address[0]
        finally:
            server.terminate()
            server.wait(20)
    assert server.returncode == 0, f"ple-rec serve ends with {server.returncode} at SIGTERM: {log.read_text()}"


def _environment(at: Path) -> dict[str, str]:
    """Variables for a verb and its processes: this clone, one thread, nothing kept in the user's folders."""
    return {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(at / ".cache"),
        "COLUMNS": "240",  # so that --help breaks no line inside an option
    }
