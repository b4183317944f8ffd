"""Bars on terminals of a known width, and no trace of them elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import pytest

from ple_rec.text.messages import print_messages
from ple_rec.text.progress import StatusLine, create_bar, print_line

Shown = Callable[[Callable[[TextIO], None], int], str]


@pytest.fixture
def shown() -> Shown:
    """What a function writes to a terminal of so many columns."""

    def run(write: Callable[[TextIO], None], columns: int) -> str:
        text, (master, slave) = b"", os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with os.fdopen(slave, "w") as terminal:
            write(terminal)
            terminal.flush()
            os.set_blocking(master, False)
            os.set_blocking(master, False)
            with suppress(BlockingIOError):  # all is read
                while piece := os.read(master, 1 << 16):
                    text += piece
        os.close(master)
        return text.decode().replace("\r\n", "\n")

    return run


def _prepare(stream: TextIO) -> None:
    line = StatusLine(stream)
    line.show("feed: digesting 8 files")
    line.show("feed:", "encode  1,000 of 2,000 rows  12,345 rows/s  1.2 GiB  0:12 left", 0.625)
    line.clear()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_line_fits_its_terminal_and_leaves_nothing(columns: int, shown: Shown) -> None:
    text = shown(_prepare, columns)
    drawn = text.split("\r")
    assert max(map(len, drawn)) <= columns
    assert drawn[-1] == ""
    assert not drawn[-2].strip()
    assert "\n" not in text
    assert any(line.startswith("feed: digesting 8 files") for line in drawn)
    (last,) = (line for line in drawn if "62%" in line)
    if columns > 80:
        assert re.fullmatch(r"feed: \|[^|]{100,}\|  62%  encode .* 0:12 left", last)


def test_elsewhere_there_are_lines_alone() -> None:
    stream = io.StringIO()
    _prepare(stream)
    assert stream.getvalue() == (
        "feed: digesting 8 files\nfeed:  62%  encode  1,000 of 2,000 rows  12,345 rows/s  1.2 GiB  0:12 left\n"
    )
    with create_bar(10, stream=stream) as none:
        none.update()
    assert stream.getvalue().count("\n") == 2


@pytest.mark.parametrize("name", ["{0}", "{desc}", "a\x1b[2J\rb", "100 %"])
def test_a_name_is_drawn_as_it_stands(name: str, shown: Shown) -> None:
    text = shown(lambda stream: StatusLine(stream).show(name, name, 0.5), 80)
    assert name.encode("unicode_escape").decode() in text
    assert "\x1b[2J" not in text


def test_lines_stand_above_the_bar(shown: Shown) -> None:
    def write(stream: TextIO) -> None:
        with create_bar(4, done=1, unit="step", stream=stream) as steps:
            steps.update()
            print_line("step 2/4  loss 0.5", stream)

    drawn = shown(write, 80).split("\r")
    line = drawn.index("step 2/4  loss 0.5\n")
    assert drawn[line - 1].strip() == ""  # the bar was cleared first
    assert "2/4 [" in drawn[line + 1]


def test_a_bar_is_not_shown_by_other_ranks(shown: Shown) -> None:
    assert shown(lambda stream: create_bar(4, stream=stream, show=False).close(), 80) == ""


def test_no_bar_is_left_in_front_of_an_error(shown: Shown) -> None:
    def write(stream: TextIO) -> None:
        with print_messages():
            StatusLine(stream).show("feed: digesting 8 files")
        stream.write("ple-rec: feed.toml: no such file\n")

    assert shown(write, 80).split("\r")[-1] == "ple-rec: feed.toml: no such file\n"


def test_no_terminal_costs_no_import() -> None:
    code = "import sys, ple_rec.text.messages, ple_rec.text.progress as p"
    check = f"{code}; p.print_line('x'); p.StatusLine(sys.stdout).show('y'); print('tqdm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "x\ny\nFalse\n"
