"""Which messages are printed, where, and how."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from ple_rec.text.messages import print_messages
from tests.messages import logged

LOG = logging.getLogger("ple_rec.training.loop")
PREP = logging.getLogger("data_prep.datasets.census")


def test_messages_are_bare_lines_and_warnings_stand_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with print_messages():
        LOG.info("step 1/2  loss 0.5 of %")
        PREP.info("census: fetching from %s", "a mirror")
        LOG.warning("row groups are large")
    told = capsys.readouterr()
    assert told.out == "step 1/2  loss 0.5 of %\ncensus: fetching from a mirror\n"
    assert told.err == "row groups are large\n"


def test_a_block_inside_another_decides(capsys: pytest.CaptureFixture[str]) -> None:
    with print_messages():
        with print_messages("stderr"):
            LOG.info("inner")
        LOG.info("outer")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("outer\n", "inner\n")


def test_a_block_that_ends_takes_its_own_stream_away(capsys: pytest.CaptureFixture[str]) -> None:
    with print_messages(), print_messages("stderr"):
        with print_messages():
            LOG.info("innermost")
        LOG.info("middle")
    assert capsys.readouterr() == ("innermost\n", "middle\n")


def test_nothing_is_printed_outside_and_all_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("ple_rec")
    before = (logger.handlers, logger.level, logger.propagate)
    with pytest.raises(ZeroDivisionError), print_messages():
        raise ZeroDivisionError
    LOG.info("to nobody")
    assert capsys.readouterr() == ("", "")
    assert (logger.handlers, logger.level, logger.propagate) == before


def test_a_handler_of_the_program_gets_the_messages_instead(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[str] = []
    with logged(kept.append), print_messages():
        LOG.info("step 1")
        PREP.info("census")  # whose logger has no handler
        LOG.warning("row groups are large")
    assert kept == ["step 1", "row groups are large"]
    assert capsys.readouterr() == ("census\n", "")


def test_blocks_of_two_threads_may_end_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("ple_rec")
    before = (list(logger.handlers), logger.level, logger.propagate)
    one, other = print_messages(), print_messages("stderr")
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    LOG.info("still printed")
    other.__exit__(None, None, None)
    assert capsys.readouterr() == ("", "still printed\n")
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_a_program_without_logging_of_its_own_sees_warnings_alone() -> None:
    code = "import logging, ple_rec, ple_rec.text.messages as m; log = logging.getLogger('ple_rec.training.loop')"
    both = "log.info('step 1'); log.warning('row groups are large')"
    done = subprocess.run([sys.executable, "-c", f"{code}; {both}"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "row groups are large\n")


@pytest.mark.parametrize(("rank", "out"), [("0", "one\n"), ("1", "")])
def test_other_ranks_print_warnings_alone(
    rank: str, out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    with print_messages():
        LOG.info("one")
        LOG.warning("two")
    assert capsys.readouterr() == (out, "two\n")


def test_a_message_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with print_messages():
        LOG.info("table \x1b[2Ja\r\nnext line")
    assert capsys.readouterr().out == "table \\x1b[2Ja\\r\nnext line\n"


def test_what_a_library_makes_of_the_root_logger_repeats_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    root, handler = logging.getLogger(), logging.StreamHandler(io.StringIO())
    root.addHandler(handler)
    try:
        with print_messages():
            LOG.info("once")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().out == "once\n"
    assert handler.stream.getvalue() == ""


class _Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_stream_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", _Full())
    with print_messages(), pytest.raises(OSError, match="No space left"):
        LOG.info("lost")
