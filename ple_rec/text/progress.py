"""Progress of long work: on a terminal, tqdm's bar below the printed lines; elsewhere, a printed line now and then."""

from __future__ import annotations

import sys
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from ple_rec.text.escapes import printable

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 10.0  # Time between two lines of progress where the output is no terminal.
_open_bars: weakref.WeakSet[tqdm[Any]] = weakref.WeakSet()


def create_bar(
    total: float | None = None,
    *,
    done: float = 0,
    unit: str = "it",
    title: str | None = None,
    bar_format: str | None = None,
    stream: TextIO | None = None,
    show: bool = True,
) -> tqdm[Any]:
    """Return a progress bar that is drawn only on a terminal and disappears when it is closed.

    Args:
        total: Amount of work; None if it is not known.
        done: Amount of work that is done already.
        unit: Unit of the work.
        title: Text before the bar.
        bar_format: Format of the line, as tqdm's `bar_format`; None for tqdm's own.
        stream: Stream to draw on, if it is a terminal; None for standard error.
        show: False to draw nothing on a terminal either.
    """
    from tqdm import tqdm

    stream = sys.stderr if stream is None else stream
    progress_bar: tqdm[Any] = tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=title,
        bar_format=bar_format,
        file=stream,
        disable=not (show and stream.isatty()),
        dynamic_ncols=True,
        leave=False,
    )
    if not progress_bar.disable:
        _open_bars.add(progress_bar)
    return progress_bar


class StatusLine:
    """Line that shows a status. On a terminal, each update replaces it; elsewhere, each update prints a new line.

    Args:
        stream: Stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.is_terminal = stream, stream.isatty()
        self._bar: tqdm[Any] | None = None

    def show(self, text: str, suffix: str = "", share: float | None = None) -> None:
        """Show a text instead of the previous one; with `share`, also a percentage and, on a terminal, a bar.

        Args:
            text: Text at the beginning of the line.
            suffix: Text at the end of the line.
            share: Share of the work that is done, from 0 to 1; None for a line without a percentage.
        """
        percent = "" if share is None else f"{share:4.0%}"
        if not self.is_terminal:
            print_line(printable("  ".join(filter(None, (f"{text} {percent}".rstrip(), suffix)))), self.stream)
            return
        middle = "" if share is None else f" |{{bar}}| {percent}  "
        bar_format = f"{_verbatim(text)}{middle}{_verbatim(suffix)}"
        if self._bar is None:
            self._bar = create_bar(1.0, done=share or 0.0, bar_format=bar_format, stream=self.stream)
            return
        self._bar.bar_format, self._bar.n = bar_format, share or 0.0
        self._bar.refresh()

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print a line above any bar, in one write, so that lines of several processes do not mix.

    Args:
        text: Line or lines without the last line end; several lines stay together.
        stream: Stream to write to; None for standard output.
    """
    stream = sys.stdout if stream is None else stream
    with _without_bars(stream):
        stream.write(text + "\n")
        stream.flush()


def close_bars() -> None:
    """Remove every bar from the terminal, so that the next output begins a line."""
    for progress_bar in list(_open_bars):
        progress_bar.close()
    _open_bars.clear()


def _verbatim(text: str) -> str:
    """Return a text on one line, escaped for a format string of tqdm."""
    return printable(text).replace("{", "{{").replace("}", "}}")


def _without_bars(stream: TextIO) -> AbstractContextManager[None]:
    """Return a context in which the open bars are hidden; at its end they are drawn again."""
    if not _open_bars:  # Importing tqdm takes time, and is not needed without a bar.
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=stream)
