"""Processes that train runs: their answers, one that is killed, and their end."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from ple_rec.analysis.compare.workers import Outcome, Worker, Workers, wait_for_some
from tests.tiny import wait_until, write_tiny

ANSWERS = """
    import json, os, signal, sys, time
    stopped = []
    for line in sys.stdin:
        request = json.loads(line)
        name = request["config"]
        if name == "killed":
            os.kill(os.getpid(), 9)
        if name == "bug":
            sys.exit(7)
        if name == "long":
            time.sleep(600)
        if name == "asked":  # to stop, and ends some time after its answer
            print(json.dumps({"code": 75, "message": "saved"}), flush=True)
            time.sleep(0.3)
            break
        if name == "saves":  # as training does: asked to stop, it saves, answers, and the process ends
            signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
            open(request["log"], "w").close()
            while not stopped:
                time.sleep(0.05)
            print(json.dumps({"code": 75, "message": "saved"}), flush=True)
            break
        good = {"code": 0, "seconds": 0.001}
        print(json.dumps({"code": 4, "message": "nan"} if name == "diverges" else good), flush=True)
"""


@pytest.fixture
def command() -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(ANSWERS)]


def test_a_worker_answers_and_is_started_anew_after_it_was_killed(command: list[str]) -> None:
    worker = Worker(command)

    def run(name: str) -> Outcome:
        return worker.run(Path(name), Path("dir"), Path("a.log"))

    first, second = run("good"), run("good")
    assert first == second == Outcome(0)
    assert first.seconds == 0.001
    assert first.start > second.start  # the process started with it
    assert run("diverges") == Outcome(4, "nan")
    assert run("killed") == Outcome(137, "killed by SIGKILL; a.log has its output")
    assert run("bug") == Outcome(7, "its process ended with 7; a.log has its output")
    assert run("good") == Outcome(0)
    worker.stop()
    worker.wait(time.monotonic() + 30)
    worker.close()


def test_a_run_after_one_that_was_asked_to_stop_has_a_process_of_its_own(command: list[str]) -> None:
    worker = Worker(command)
    for _ in range(2):
        assert worker.run(Path("asked"), Path("dir"), Path("a.log")) == Outcome(75, "saved")
        assert worker.run(Path("good"), Path("dir"), Path("a.log")) == Outcome(0)
    worker.stop()
    worker.wait(time.monotonic() + 30)
    worker.close()


def test_what_has_ended_comes_in_the_order_it_was_given_in() -> None:
    futures = [Future[int]() for _ in range(40)]
    for future in reversed(futures[1:]):
        future.set_result(0)
    assert wait_for_some(futures) == futures[1:]
    assert wait_for_some(dict.fromkeys(reversed(futures))) == futures[:0:-1]


def test_side_by_side_and_stopped_in_the_middle(command: list[str]) -> None:
    begun = time.monotonic()
    with Workers([Worker(command), Worker(command)]) as workers:
        done = [workers.submit(Path(name), Path("dir"), Path("a.log")) for name in ("long", "good", "good", "diverges")]
        assert [future.result() for future in done[1:]] == [Outcome(0), Outcome(0), Outcome(4, "nan")]
    assert time.monotonic() - begun < 60
    assert done[0].result() == Outcome(143, "killed by SIGTERM; a.log has its output")


def test_a_run_that_starts_as_it_is_stopped_ends(command: list[str]) -> None:
    worker = Worker(command)
    worker.stop()  # before there is a process
    begun = time.monotonic()
    assert worker.run(Path("long"), Path("dir"), Path("a.log")).code == 143
    assert time.monotonic() - begun < 60


RUNS = """
    import sys
    from types import SimpleNamespace
    from ple_rec.cli import comparison_worker
    from ple_rec.errors import DivergedError

    ran = []

    def run(config, run_dir, write_analysis):
        ran.append(run_dir)
        print(f"{config.name} into {run_dir}")
        if len(ran) == 2:
            raise DivergedError("step 3", "loss nan", "a loss is finite", "lower the rate")
        if len(ran) == 3:
            raise ZeroDivisionError("of nothing")

    sys.modules["ple_rec.analysis.compare.one_run"] = SimpleNamespace(train_one=run)
    comparison_worker.main()
"""


def test_runs_that_are_stopped_save_side_by_side(command: list[str], tmp_path: Path) -> None:
    begun = time.monotonic()
    with Workers([Worker(command) for _ in range(3)]) as workers:
        logs = [tmp_path / f"{n}.log" for n in range(3)]
        done = [workers.submit(Path("saves"), Path("dir"), log) for log in logs]
        assert wait_until(lambda: all(log.exists() for log in logs), 30)
    assert [future.result() for future in done] == [Outcome(75, "saved")] * 3
    assert time.monotonic() - begun < 30


def test_a_worker_that_was_killed_between_runs_is_started_anew(command: list[str]) -> None:
    worker = Worker(command)
    assert worker.run(Path("good"), Path("dir"), Path("a.log")) == Outcome(0)
    process = worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert worker.run(Path("good"), Path("dir"), Path("a.log")) == Outcome(0)
    worker.stop()
    worker.wait(time.monotonic() + 30)
    worker.close()


def test_a_served_run_tells_its_log_and_its_error(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    request = json.dumps({"config": "tiny.toml", "run_dir": "run", "log": "run.log"})
    script = [sys.executable, "-c", textwrap.dedent(RUNS)]
    done = subprocess.run(script, input=f"{request}\n" * 3, stdout=subprocess.PIPE, text=True, cwd=tmp_path, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["code"] for answer in found] == [0, 4, 1]
    assert "loss nan" in found[1]["message"]
    assert found[2]["message"] == "ZeroDivisionError: of nothing"
    log = (tmp_path / "run.log").read_text()
    assert log.count("tiny into run") == 3
    assert "Traceback" in log
