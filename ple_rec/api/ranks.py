"""Training on several ranks that a notebook or a script starts as processes.

The processes are those of `ple-rec train --ranks N`. This process prints their output and shows a progress bar. It
raises their error as an exception of this package. Ctrl-C stops the ranks, and SIGTERM lets them save the run.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import ple_rec
from ple_rec.api.html import progress_bar
from ple_rec.config.load import dump_toml
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError, PreemptedError
from ple_rec.runtime.exits import ERROR_FOLDER, INTERRUPTED, first_error
from ple_rec.storage import Location
from ple_rec.text.progress import bar, print_line

_COMMAND = (sys.executable, "-m", "ple_rec.api.child")
# A line of the training's log begins like this.
_STEP = re.compile(r"step +(\d+)/(\d+) ")
# The error of a crash shows this many lines of the ranks' output.
_LAST_LINES = 20
_TICK_SECONDS = 0.2
# Torchrun's agent kills ranks that do not end within 30 s.
_STOP_SECONDS = 45.0


def train_on_ranks(config: RunConfig, run_dir: Location, ranks: int, flags: Sequence[str]) -> None:
    """Train with several ranks on this host, and wait for their end.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        ranks: Number of ranks.
        flags: Further flags of `ple-rec train`.

    Raises:
        PleRecError: A rank failed; this is the error that the first one raised. After SIGTERM, once the run is saved,
            it is a PreemptedError.
        KeyboardInterrupt: The user pressed Ctrl-C, and the ranks have ended.
    """
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
        file = Path(folder) / "config.toml"
        file.write_text(dump_toml(config), encoding="utf-8")
        verb = ["train", "--config", str(file), "--run-dir", str(run_dir), "--ranks", str(ranks), *flags]
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with _process(verb, folder) as process:
            _print_all(process, last)
            code = process.wait()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        error = first_error(Path(folder)) if code else None
        if error is not None:
            raise error
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            raise PreemptedError(f"{ranks} ranks", "asked to stop", "they had not begun", "run it again")
        if code:
            raise PleRecError(
                f"{ranks} ranks",
                f"ended with exit code {code}",
                "the last lines that they printed:\n" + "\n".join(last),
                "it is a bug if these lines name no cause; a rank that was killed may have been out of memory",
            )


@contextmanager
def _process(verb: Sequence[str], folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process that starts the ranks, pass SIGTERM on to it, and wait for its end after the block."""
    # The ranks run the code that runs here, even if the working directory has another copy.
    package = Path(ple_rec.__file__).parent.parent
    paths = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    own = {ERROR_FOLDER: folder, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": paths}
    with subprocess.Popen(
        [*_COMMAND, *verb],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | own,
        # The terminal then sends Ctrl-C to this process alone, which stops the ranks.
        start_new_session=True,
    ) as process:
        try:
            with _forward_signal(signal.SIGTERM, process):
                yield process
        except BaseException:
            _stop(process)
            raise


@contextmanager
def _forward_signal(number: signal.Signals, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Forward a signal of this process to another one in the block; only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: process.send_signal(number))
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the ranks to end, and print their output until they do; a second Ctrl-C kills them."""
    process.send_signal(signal.SIGINT)
    try:
        with suppress(KeyboardInterrupt):
            _print_all(process, deque(maxlen=_LAST_LINES), until=time.monotonic() + _STOP_SECONDS)
    finally:
        # Ranks end once the process that has started them is gone.
        process.kill()


def _print_all(process: subprocess.Popen[bytes], last: deque[str], until: float | None = None) -> None:
    """Print the output of a process line by line, until it closes its streams.

    Args:
        process: Process whose output and errors are pipes.
        last: Queue to which the lines are appended.
        until: Time of `time.monotonic` at which to stop in any case; None for no limit.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    # This thread prints all lines, since a notebook shows the output of another thread in whatever cell runs.
    with selectors.DefaultSelector() as selector, _progress() as reach:
        selector.register(process.stdout, selectors.EVENT_READ, sys.stdout)
        selector.register(process.stderr, selectors.EVENT_READ, sys.stderr)
        # A stream may end in an incomplete line, which waits here for its rest.
        incomplete: dict[int, bytes] = {}
        while selector.get_map() and (until is None or time.monotonic() < until):
            for key, _ in selector.select(_TICK_SECONDS):
                piece, line_start = os.read(key.fd, 1 << 16), incomplete.pop(key.fd, b"")
                if not piece:
                    selector.unregister(key.fileobj)
                    piece = b"\n" if line_start else b""
                *lines, incomplete[key.fd] = (line_start + piece).split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace")
                    last.append(text)
                    print_line(text, key.data)
                    if step := _STEP.match(text):
                        reach(int(step[1]), int(step[2]))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function (step, total) that moves a progress bar, on a terminal or in the cell of a notebook."""
    if "ipykernel" in sys.modules:
        display = import_module("IPython.display")
        # The bar is an output of its own, since redrawing a line would leave empty lines between the printed ones.
        output = display.display(display.HTML(progress_bar(0, 0)), display_id=True)
        yield lambda step, total: output.update(display.HTML(progress_bar(step, total)))
        return
    with bar(unit="step") as terminal_bar:

        def reach(step: int, total: int) -> None:
            terminal_bar.n, terminal_bar.total = step, total
            terminal_bar.refresh()

        yield reach
