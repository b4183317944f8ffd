"""Several ranks from a notebook: their lines and their error arrive here, and no process outlives the call."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

import ple_rec
from ple_rec.api import ranks
from ple_rec.errors import DataError, DivergedError, PleRecError, PreemptedError, UserError
from ple_rec.runtime.exits import ERROR_FOLDER, first_error, run_reporting_errors
from tests.tiny import LAST_GROUP, processes_in, wait_until, write_tiny

ENDLESS = {"train.epochs": None, "train.steps": 1_000_000, "train.report_every": 1, "train.evaluate_every": 1_000_000}
SCRIPT = f"""
import ple_rec
try:
    ple_rec.train("tiny.toml", ranks=2, overrides={ENDLESS!r})
except KeyboardInterrupt:
    print("stopped here", flush=True)
except ple_rec.PreemptedError as error:
    assert "is saved" in error.rule, error
    print("saved here", flush=True)
"""


def starts(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let other code run in the place of the process that starts ranks."""
    monkeypatch.setattr(ranks, "_COMMAND", (sys.executable, "-c", code))


def train_with(here: Path, *flags: str) -> None:
    from ple_rec.config.load import load_config
    from ple_rec.config.run import RunConfig

    ranks.train_on_ranks(load_config(RunConfig, here / "tiny.toml"), here / "run", 2, flags)


def test_what_ranks_print_is_printed_here(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; print('a\\nb ü', flush=True); sys.stderr.write('no end'); sys.stdout.buffer.write(b'\\xff')"
    starts(monkeypatch, code)
    train_with(here)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("a\nb ü\n\ufffd\n", "no end\n")


STEPS = "print('step  5/40  loss 1.0'); print('other'); print('step 40/40  valid loss 1.0')"


def test_a_bar_of_a_terminal_follows_the_log(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    starts(monkeypatch, STEPS)
    train_with(here)
    said = capsys.readouterr()
    assert said.out.split() == ["step", "5/40", "loss", "1.0", "other", "step", "40/40", "valid", "loss", "1.0"]
    assert re.findall(r"(\d+)/40 ", said.err)[-1] == "40"


def test_a_bar_of_a_notebook_is_an_output_of_its_own(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    display = types.ModuleType("IPython.display")
    handle = types.SimpleNamespace(update=shown.append)

    def show(html: str, *, display_id: bool) -> types.SimpleNamespace:
        assert display_id
        shown.append(html)
        return handle

    monkeypatch.setattr(display, "HTML", lambda html: html, raising=False)
    monkeypatch.setattr(display, "display", show, raising=False)
    for name, module in (("ipykernel", display), ("IPython", types.ModuleType("IPython")), (display.__name__, display)):
        monkeypatch.setitem(sys.modules, name, module)
    starts(monkeypatch, STEPS)
    train_with(here)
    assert [re.sub(r"(?s)<style>.*</style>|<[^>]*>", "", html) for html in shown] == [
        " starting",
        " 5 of 40 steps",
        " 40 of 40 steps",
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [UserError, DataError, DivergedError, PreemptedError, PleRecError])
def test_an_error_of_a_rank_is_raised_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[PleRecError]
) -> None:
    def fail() -> int:
        raise kind("here", "this", "that", "so")

    assert first_error(tmp_path) is None
    monkeypatch.setenv(ERROR_FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    assert run_reporting_errors(fail) == kind.exit_code
    monkeypatch.setenv("RANK", "0")
    assert run_reporting_errors(lambda: run_reporting_errors(fail) and fail()) == kind.exit_code
    found = first_error(tmp_path)
    assert type(found) is kind
    assert (found.place, found.value, found.rule, found.fix) == ("here", "this", "that", "so")
    assert capsys.readouterr().err == ""  # the exception will say it


def test_an_error_that_cannot_be_left_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise UserError("here", "this", "that", "so")

    monkeypatch.setenv(ERROR_FOLDER, str(tmp_path / "gone"))
    assert run_reporting_errors(fail) == 2
    assert capsys.readouterr().err == "ple-rec: here: this; that. Fix: so\n"


def test_a_crash_shows_the_last_lines(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts(monkeypatch, "import sys; print('working'); sys.exit('ZeroDivisionError: in the kernel')")
    with pytest.raises(
        PleRecError, match=r"(?s)2 ranks: ended with exit code 1; .*working\nZeroDivisionError: in the kernel"
    ):
        train_with(here)


def test_the_process_gets_the_configuration_and_the_flags(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts(monkeypatch, "import json, sys; print(json.dumps([sys.argv[1:], open(sys.argv[3]).read()]))")
    train_with(here, "--resume")
    argv, text = json.loads(capsys.readouterr().out)
    assert argv == ["train", "--config", argv[2], "--run-dir", str(here / "run"), "--ranks", "2", "--resume"]
    assert 'name = "tiny"' in text
    assert not Path(argv[2]).exists()


def test_ctrl_c_stops_a_process_that_does_not_hear_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_STOP_SECONDS", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    starts(monkeypatch, deaf)
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        train_with(here)
    timer.join()
    assert processes_in(here) == []


def test_sigterm_is_passed_on_and_the_error_that_is_left_is_raised(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saves = """
import os, signal, sys, time
from ple_rec.errors import PreemptedError
from ple_rec.runtime.exits import run_reporting_errors
def save(*_):
    print("saved", flush=True)
    raise PreemptedError("run", "asked to stop", "step-3 is saved", "run it again with --resume")
def work():
    os.kill(os.getppid(), signal.SIGTERM)
    while True:  # A signal that arrives just before a long sleep is heard only after it.
        time.sleep(0.01)
signal.signal(signal.SIGTERM, save)
sys.exit(run_reporting_errors(work))
"""
    starts(monkeypatch, saves)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="run: asked to stop; step-3 is saved"):
        train_with(here)
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().out == "saved\n"
    asks = """
import os, signal, sys, time
{}
os.kill(os.getppid(), signal.SIGTERM)
while True:
    time.sleep(0.01)
"""
    for early in ("", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"):  # before, and while ranks start
        starts(monkeypatch, asks.format(early))
        with pytest.raises(PreemptedError, match="2 ranks: asked to stop"):
            train_with(here)


def test_ranks_run_the_code_that_runs_here(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "ple_rec").mkdir()
    (here / "ple_rec" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.setenv("PYTHONPATH", str(here))
    starts(monkeypatch, "import ple_rec; print(ple_rec.__file__)")
    train_with(here)
    assert capsys.readouterr().out == f"{ple_rec.__file__}\n"


@pytest.mark.slow
def test_two_ranks_train_as_the_verb_does(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = ple_rec.train("tiny.toml", run_dir="runs/api", ranks=2, overrides={"seed": 3})
    said = capfd.readouterr()
    assert "2 rank(s) on cpu" in said.out
    assert "report: runs/api/report.html" in said.out
    assert run.metrics["world_size"] == 2
    argv = ["train", "--config", "tiny.toml", "--run-dir", "runs/verb", "--ranks", "2", "--set", "seed=3"]
    subprocess.run([sys.executable, "-m", "ple_rec", *argv], check=True, capture_output=True)
    verb = ple_rec.load_run("verb")
    assert (run.path / "config.toml").read_text() == (verb.path / "config.toml").read_text()
    for split in ("valid", "test"):
        assert run.metrics[split] == verb.metrics[split]
    assert run.predict().equals(verb.predict())


@pytest.mark.slow
def test_bad_data_on_one_rank_is_raised(here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "bad", wrong_group=LAST_GROUP)
    with pytest.raises(ple_rec.DataError, match=r"label 2\.0 of task 'click'") as caught:
        ple_rec.train("tiny.toml", ranks=2, overrides={"data.path": str(tmp_path / "bad" / "data")})
    assert "row group" in caught.value.place
    assert "label 2.0" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "ending"),
    [
        (signal.SIGINT, ["stopped here"]),
        (signal.SIGTERM, ["saved here"]),
        (signal.SIGKILL, []),
    ],
)
def test_no_rank_outlives_who_has_started_it(here: Path, number: signal.Signals, ending: Sequence[str]) -> None:
    with subprocess.Popen([sys.executable, "-u", "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(line.startswith("step") for line in lines)
        process.send_signal(number)
        rest = [line.strip() for line in lines]
    assert number == signal.SIGKILL or rest[-1:] == ending
    assert wait_until(lambda: processes_in(here) == [], 60)
