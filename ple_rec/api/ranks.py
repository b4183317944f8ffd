"""Training on several ranks from a notebook or a script, for `ple_rec.train(ranks=N)`.

The ranks are processes of `ple-rec train --ranks N`. The calling process prints their output and shows a progress bar.
If a rank fails, the calling process raises the same exception, or one with the last lines of the output if the rank
left none. Ctrl-C stops the ranks, and SIGTERM lets them save a checkpoint first.
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
from ple_rec.text.progress import create_bar, print_line

_COMMAND = (sys.executable, "-m", "ple_rec.api.child")
# Beginning of a line of the training log, with the step and the number of all steps.
_STEP = re.compile(r"step +(\d+)/(\d+) ")
# The message about a crash shows this many last lines of the ranks' output.
_LAST_LINES = 20
# Longest wait for output; then the time limit of `_print_all` is checked.
_TICK_SECONDS = 0.2
# Longest wait for the end of the ranks; the agent of torchrun kills ranks that do not end within 30 s.
_STOP_SECONDS = 45.0


def train_on_ranks(config: RunConfig, run_dir: Location, ranks: int, flags: Sequence[str]) -> None:
    """Train with several ranks on this host, and wait for their end.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        ranks: Number of ranks.
        flags: Further flags of `ple-rec train`.

    Raises:
        PleRecError: A rank failed; the error is that of the first rank that failed, or has the exit code of the ranks
            and the last lines that they printed.
        PreemptedError: SIGTERM stopped the ranks, after they had saved the run or before they began to train.
        KeyboardInterrupt: The user pressed Ctrl-C, and the ranks have ended.
    """
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as folder:
        file = Path(folder) / "config.toml"
        file.write_text(dump_toml(config), encoding="utf-8")
        arguments = ["train", "--config", str(file), "--run-dir", str(run_dir), "--ranks", str(ranks), *flags]
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with _process(arguments, folder) as process:
            _print_all(process, last)
            code = process.wait()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        error = first_error(Path(folder)) if code else None
        if error is not None:
            raise error
        # A rank that has begun to train leaves an error of its own when it is stopped.
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            raise PreemptedError(f"{ranks} ranks", "asked to stop", "they had not begun to train", "run it again")
        if code:
            raise PleRecError(
                f"{ranks} ranks",
                f"ended with exit code {code}",
                "the last lines that they printed:\n" + "\n".join(last),
                "it is a bug if these lines name no cause; a rank that was killed may have been out of memory",
            )


@contextmanager
def _process(arguments: Sequence[str], folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process that starts the ranks, forward SIGTERM to it, and wait for its end after the block.

    Args:
        arguments: Command line arguments of `ple-rec`.
        folder: Folder to which a rank that fails writes its error.
    """
    # With these paths, the ranks import the package of this process, even if the working directory has a copy.
    package = Path(ple_rec.__file__).parent.parent
    paths = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    own = {
        ERROR_FOLDER: folder,
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": paths,
        "PYTHONIOENCODING": "utf-8",  # `_print_all` decodes UTF-8, whatever the locale is.
    }
    with subprocess.Popen(
        [*_COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | own,
        # In a session of their own, the ranks do not get Ctrl-C from the terminal. This process stops them instead.
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
    """Forward a signal, if this process receives it within the block, to another process.

    Outside of the main thread nothing is forwarded, since Python lets only the main thread set signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: process.send_signal(number))
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the ranks to end, and print their output until they do, a second Ctrl-C comes or `_STOP_SECONDS` have passed.

    Ranks that still run then are killed.
    """
    process.send_signal(signal.SIGINT)
    try:
        with suppress(KeyboardInterrupt):
            _print_all(process, deque(maxlen=_LAST_LINES), until=time.monotonic() + _STOP_SECONDS)
    finally:
        # The ranks end when the process that has started them is gone.
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
    # `reach` moves the progress bar to a step. No other thread prints, since a notebook would show its output in
    # whichever cell runs at that time.
    with selectors.DefaultSelector() as selector, _progress() as reach:
        selector.register(process.stdout, selectors.EVENT_READ, sys.stdout)
        selector.register(process.stderr, selectors.EVENT_READ, sys.stderr)
        # Beginning of a line whose rest has not been read yet, by file descriptor.
        incomplete: dict[int, bytes] = {}
        while selector.get_map() and (until is None or time.monotonic() < until):
            for key, _ in selector.select(_TICK_SECONDS):
                piece, line_start = os.read(key.fd, 1 << 16), incomplete.pop(key.fd, b"")
                if not piece:
                    # At the end of a stream, an unfinished line is printed, too.
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
    with create_bar(unit="step") as terminal_bar:

        def reach(step: int, total: int) -> None:
            terminal_bar.n, terminal_bar.total = step, total
            terminal_bar.refresh()

        yield reach
