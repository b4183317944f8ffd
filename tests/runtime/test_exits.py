"""How a process ends: what its ranks say, said once, with the exit code and all the output."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from ple_rec.distributed.collectives import PeerError
from ple_rec.errors import DataError, UserError
from ple_rec.runtime import exits
from ple_rec.runtime.exits import AGENT_FOLDER, RESTARTS, recorded_exit_code, run_reporting_errors
from tests.tiny import environment

VERB = """
from ple_rec.runtime.exits import end_process, run_reporting_errors
def verb():
    for i in range(100_000):
        print(i, flush=True)
end_process(run_reporting_errors(verb))
"""


def test_a_rank_says_only_what_no_other_has_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(AGENT_FOLDER, str(tmp_path))
    monkeypatch.setattr(exits, "_RANK_0_GRACE_SECONDS", 0.0)

    def fail(error: Exception, rank: int) -> tuple[int, str]:
        def call() -> None:
            raise error

        monkeypatch.setenv("RANK", str(rank))
        return run_reporting_errors(call), capsys.readouterr().err

    everywhere, here = UserError("dim", "6", "a multiple of 4", "8"), DataError("part-1", "label 2", "0 or 1", "look")
    assert fail(everywhere, 0) == (2, "ple-rec: dim: 6; a multiple of 4. Fix: 8\n")
    assert fail(everywhere, 1) == (2, "")
    assert fail(here, 1) == (3, "ple-rec: rank 1: part-1: label 2; 0 or 1. Fix: look\n")
    assert fail(here, 2) == (3, "")
    assert recorded_exit_code(str(tmp_path)) == 2  # both have been marked; the agent ends with the first
    monkeypatch.delenv(AGENT_FOLDER)  # under plain torchrun
    assert fail(here, 2) == (3, "ple-rec: rank 2: part-1: label 2; 0 or 1. Fix: look\n")


def test_a_rank_that_stops_for_a_restart_has_not_ended_the_job(tmp_path: Path) -> None:
    for code in (75, 1):
        (tmp_path / f"ended-{code}").touch()
    assert recorded_exit_code(str(tmp_path)) == 75
    (tmp_path / RESTARTS).touch()
    assert recorded_exit_code(str(tmp_path)) is None
    (tmp_path / "ended-4").touch()  # another one diverged meanwhile
    assert recorded_exit_code(str(tmp_path)) == 4


def test_a_rank_that_lost_its_peers_leaves_the_word_to_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(exits, "_PEER_GRACE_SECONDS", 0.0)

    def end(error: Exception) -> tuple[int, str]:
        def call() -> None:
            raise error

        return run_reporting_errors(call), capsys.readouterr().err

    assert end(PeerError(3)) == (3, "")
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    assert end(lost) == (1, "ple-rec: rank 1: stops, since another rank has failed\n")
    with pytest.raises(RuntimeError, match="a bug"):
        end(RuntimeError("a bug"))


def test_a_bug_keeps_its_traceback_and_an_interrupt_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="a bug"):
        run_reporting_errors(bug)
    assert run_reporting_errors(interrupt) == 130
    assert capsys.readouterr().err == "ple-rec: interrupted\n"


@pytest.mark.parametrize("loaded", ["torch", "json"])
def test_a_process_ends_with_its_code_and_all_that_it_said(loaded: str) -> None:
    stub = f"import sys, types; sys.modules[{loaded!r}] = types.ModuleType('stub'); "
    code = stub + "from ple_rec.runtime.exits import end_process; print('said', end=''); end_process(4)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (4, "said", "")


def test_a_closed_pipe_ends_a_verb_without_a_traceback(repository: Path) -> None:
    verb = subprocess.Popen(
        [sys.executable, "-c", VERB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(repository)
    )
    assert verb.stdout is not None
    assert verb.stderr is not None
    assert verb.stdout.readline() == b"0\n"
    verb.stdout.close()
    assert verb.wait(60) == 141
    assert verb.stderr.read() == b""
    verb.stderr.close()


def _write(text: str) -> None:
    sys.stdout.write(text)


def test_output_that_goes_nowhere_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:  # `>&-` and `2>&-`
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, None)
        assert run_reporting_errors(lambda: _write("said")) == 0
        assert sys.stderr.write("said") == 4
        for stream in (sys.stdout, sys.stderr):
            stream.close()
    for unbuffered in (False, True):
        with monkeypatch.context() as patch, Path("/dev/full").open("wb", buffering=0) as full:
            stream = full if unbuffered else io.BufferedWriter(full)
            patch.setattr(sys, "stdout", io.TextIOWrapper(stream, write_through=unbuffered))
            assert run_reporting_errors(lambda: _write("said")) == 2
        assert capsys.readouterr().err == (
            "ple-rec: stdout: cannot be written (No space left on device); a verb prints its results there. Fix: send "
            "it to a terminal, or to a file that has room\n"
        )

    def another() -> None:
        raise OSError("another file")

    with pytest.raises(OSError, match="another file"):
        run_reporting_errors(another)


def test_characters_that_the_output_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    assert run_reporting_errors(lambda: _write("runs/übung\n")) == 0
    assert content.getvalue() == b"runs/\\xfcbung\n"


def test_a_rank_that_lost_its_peers_is_silent_once_one_has_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(AGENT_FOLDER, str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # no grace: nobody else is here
    lost = RuntimeError("Connection closed by peer")
    assert exits._handle_lost_peer(lost, "0") == 1
    assert capsys.readouterr().err == "ple-rec: rank 0: stops, since another rank has failed\n"
    exits._say("why", "0")
    assert exits._handle_lost_peer(lost, "0") == 1
    assert capsys.readouterr().err == "ple-rec: why\n"
