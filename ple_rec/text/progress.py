"""Progress for people who wait: on a terminal tqdm's bar, with whole lines above it; elsewhere lines alone.

Where there is no terminal, whatever takes long prints a line every `LINE_SECONDS`.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from ple_rec.text.escapes import printable

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 10.0  # between two lines about progress where there is no terminal
_shown: weakref.WeakSet[tqdm[Any]] = weakref.WeakSet()


def bar(
    total: float | None = None,
    *,
    done: float = 0,
    unit: str = "it",
    title: str | None = None,
    shape: str | None = None,
    stream: TextIO | None = None,
    show: bool = True,
) -> tqdm[Any]:
    """Return a bar that is drawn where its stream is a terminal, fits the width of it, and leaves no trace.

    Args:
        total: Amount of work; None where it is not known.
        done: Work that was done before.
        unit: Unit of the work.
        title: Text before the bar.
        shape: Format of the line, as tqdm's `bar_format`; None: tqdm's own.
        stream: Stream to draw on; None: standard error.
        show: False: it is not drawn on a terminal either.
    """
    from tqdm import tqdm

    stream = sys.stderr if stream is None else stream
    made: tqdm[Any] = tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=title,
        bar_format=shape,
        file=stream,
        disable=not (show and stream.isatty()),
        dynamic_ncols=True,
        leave=False,
    )
    if not made.disable:
        _shown.add(made)
    return made


class Line:
    """One line of text that is replaced by the next on a terminal; lines below each other elsewhere.

    Args:
        stream: Stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.terminal = stream, stream.isatty()
        self._bar: tqdm[Any] | None = None

    def show(self, text: str, after: str = "", share: float | None = None) -> None:
        """Show text, and where a share of work is given, a bar (on a terminal) and the share in percent behind it.

        Args:
            text: Text at the begin of the line.
            after: Text at its end.
            share: Share of the work that is done, from 0 to 1.
        """
        percent = "" if share is None else f"{share:4.0%}"
        if not self.terminal:
            print_line(printable("  ".join(filter(None, (f"{text} {percent}".rstrip(), after)))), self.stream)
            return
        middle = "" if share is None else f" |{{bar}}| {percent}  "
        shape = f"{_verbatim(text)}{middle}{_verbatim(after)}"
        if self._bar is None:
            self._bar = bar(1.0, done=share or 0.0, shape=shape, stream=self.stream)
            return
        self._bar.bar_format, self._bar.n = shape, share or 0.0
        self._bar.refresh()

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print a line at once, whole also where several processes write, and above any bar.

    Args:
        text: Line without its end; several lines stay together.
        stream: Stream to write to; None: standard output.
    """
    stream = sys.stdout if stream is None else stream
    with _cleared(stream):
        stream.write(text + "\n")
        stream.flush()


def close_bars() -> None:
    """Remove every bar from the terminal, so that what is printed next begins a line."""
    for made in list(_shown):
        made.close()
    _shown.clear()


def _verbatim(text: str) -> str:
    """Return text for a format string of tqdm's, in one line."""
    return printable(text).replace("{", "{{").replace("}", "}}")


def _cleared(stream: TextIO) -> AbstractContextManager[None]:
    if not _shown:  # tqdm, which takes time to import, need not be loaded
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=stream)
