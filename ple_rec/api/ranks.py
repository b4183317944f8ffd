"""Several ranks of a training, started by a notebook or a script: processes of their own, whose end is awaited here.

They are those of `ple-rec train --ranks N`. What they print is printed here, a bar shows how far they are, their error
becomes an exception of this package, Ctrl-C stops them, and SIGTERM lets them save the run.
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
from ple_rec.runtime.exits import ERRORS, INTERRUPTED, left_error
from ple_rec.storage import Location
from ple_rec.text.progress import bar, print_line

_COMMAND = (sys.executable, "-m", "ple_rec.api.child")
_STEP = re.compile(r"step +(\d+)/(\d+) ")  # begins a line of the training's log
_LAST_LINES = 20  # of what ranks print, for the error of a crash
_TICK_SECONDS = 0.2
_STOP_SECONDS = 45.0  # torchrun's agent kills ranks that do not end within 30 s


def train_on_ranks(config: RunConfig, run_dir: Location, ranks: int, flags: Sequence[str]) -> None:
    """Train with several ranks on this host; returns when they have ended.

    Args:
        config: Configuration of the run.
        run_dir: Directory of the run.
        ranks: Number of ranks.
        flags: Further flags of `ple-rec train`.

    Raises:
        PleRecError: the error of the first rank that failed, as it was raised there; by SIGTERM, once the run is saved,
            PreemptedError.
        KeyboardInterrupt: by Ctrl-C; the ranks have ended then.
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
        error = left_error(Path(folder)) if code else None
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
    """Start the process that starts the ranks, and pass SIGTERM on to it; it has ended behind the block."""
    package = Path(ple_rec.__file__).parent.parent  # ranks run the code that runs here, not that of a working directory
    paths = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    own = {ERRORS: folder, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "PYTHONPATH": paths}
    with subprocess.Popen(
        [*_COMMAND, *verb],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | own,
        start_new_session=True,  # a Ctrl-C is this process's to pass on
    ) as process:
        try:
            with _passes_on(signal.SIGTERM, process):
                yield process
        except BaseException:
            _stop(process)
            raise


@contextmanager
def _passes_on(number: signal.Signals, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Send a process the signals that this one gets inside the block; other threads than the main one get none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda *_: process.send_signal(number))
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the ranks to end, and print what they say to it; a second Ctrl-C kills them."""
    process.send_signal(signal.SIGINT)
    try:
        with suppress(KeyboardInterrupt):
            _print_all(process, deque(maxlen=_LAST_LINES), until=time.monotonic() + _STOP_SECONDS)
    finally:
        process.kill()  # ranks end once the process that started them is gone


def _print_all(process: subprocess.Popen[bytes], last: deque[str], until: float | None = None) -> None:
    """Print what a process prints, line by line, until it closes its streams, or a time (`time.monotonic`)."""
    assert process.stdout is not None
    assert process.stderr is not None
    # All is printed by this thread: a notebook shows what other threads print in whatever cell runs.
    with selectors.DefaultSelector() as selector, _progress() as reach:
        selector.register(process.stdout, selectors.EVENT_READ, sys.stdout)
        selector.register(process.stderr, selectors.EVENT_READ, sys.stderr)
        begun: dict[int, bytes] = {}  # lines that have not ended, by stream
        while selector.get_map() and (until is None or time.monotonic() < until):
            for key, _ in selector.select(_TICK_SECONDS):
                piece, rest = os.read(key.fd, 1 << 16), begun.pop(key.fd, b"")
                if not piece:
                    selector.unregister(key.fileobj)
                    piece = b"\n" if rest else b""
                *lines, begun[key.fd] = (rest + piece).split(b"\n")
                for line in lines:
                    text = line.decode(errors="replace")
                    last.append(text)
                    print_line(text, key.data)
                    if step := _STEP.match(text):
                        reach(int(step[1]), int(step[2]))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield what moves a bar of steps, on a terminal or in the cell of a notebook."""
    if "ipykernel" in sys.modules:
        display = import_module("IPython.display")
        # An output of its own: a line that is redrawn would leave empty ones between those that are printed.
        shown = display.display(display.HTML(progress_bar(0, 0)), display_id=True)
        yield lambda step, total: shown.update(display.HTML(progress_bar(step, total)))
        return
    with bar(unit="step") as shown_bar:

        def reach(step: int, total: int) -> None:
            shown_bar.n, shown_bar.total = step, total
            shown_bar.refresh()

        yield reach
