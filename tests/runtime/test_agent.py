"""The agent with real ranks: their exit codes become its own, a message is said once, no rank outlives it."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import parse_args

from ple_rec import agent
from ple_rec.cli import main
from ple_rec.runtime import ranks
from ple_rec.runtime.elastic import set_rendezvous_defaults
from ple_rec.runtime.exits import AGENT_FOLDER
from tests.tiny import LAST_GROUP, alive, children, environment, rank_of, wait_until, write_tiny


@pytest.fixture
def here(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `data/` and `tiny.toml`; processes started from it find this clone."""
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    return tmp_path


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """What an agent changes of its process: signal handlers, levels of loggers, the environment."""
    variables = dict(os.environ)
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in handled}
    names = ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api", "torch.distributed.run")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_the_code_that_a_rank_has_said_wins(capsys: pytest.CaptureFixture[str]) -> None:
    stopped, killed, crashed = -signal.SIGTERM, -signal.SIGKILL, -signal.SIGSEGV
    assert ranks._exit_code({0: stopped, 1: 3}) == 3
    assert ranks._exit_code({0: 1, 1: 4}) == 4
    assert ranks._exit_code({0: 1}) == 1
    assert capsys.readouterr().err == ""
    assert ranks._exit_code({0: stopped, 1: killed}) == 1
    assert capsys.readouterr().err == "ple-rec: rank 1: killed by SIGKILL (the host may be out of memory)\n"
    assert ranks._exit_code({0: crashed, 1: stopped}) == 1
    assert capsys.readouterr().err == "ple-rec: rank 0: killed by SIGSEGV\n"
    assert ranks._exit_code({0: stopped, 1: stopped}) == 1
    assert capsys.readouterr().err == "ple-rec: rank 0: killed by SIGTERM\nple-rec: rank 1: killed by SIGTERM\n"


def test_a_signal_is_found_below_the_error_that_came_over_it() -> None:
    def interrupted() -> None:
        """As a wrapper of torch's, whose first line a signal has kept from setting what its `finally` reads."""
        try:
            raise SignalException("got signal", signal.SIGTERM)
        finally:
            raise UnboundLocalError("start")

    with pytest.raises(UnboundLocalError) as caught:
        interrupted()
    assert ranks._find_signal(caught.value) is signal.SIGTERM
    assert ranks._find_signal(ValueError()) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--standalone", "--nproc-per-node", "3"], [3]),
        (["--nnodes", "2", "--nproc-per-node", "8"], [16]),
        (["--nnodes", "1:4", "--nproc-per-node", "2"], [8, 6, 4, 2]),
    ],
)
def test_the_world_size_is_known_before_a_rank_starts(options: list[str], expected: list[int]) -> None:
    assert ranks.possible_world_sizes(options) == expected


def test_input_is_checked_once_before_any_rank_starts(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--nnodes", "4", "--nproc-per-node", "4", "--"]
    assert agent.main([*options, "train", "--config", "tiny.toml", "--set", "data.virtual_shards=16"]) == 2
    message = "ple-rec: data/train: 8 row group(s) for 16 ranks; each rank must read at least one row group. Fix: "
    assert capfd.readouterr().err.startswith(message)
    assert agent.main([*options, "trian"]) == 2
    assert capfd.readouterr().err.startswith('ple-rec: command line: unknown verb "trian"; did you mean "train"? ')
    assert agent.main([*options, "doctor"]) == 2
    assert capfd.readouterr().err == (
        "ple-rec: ple_rec.agent: got the verb 'doctor'; it starts the ranks of train and evaluate. "
        "Fix: run `ple-rec doctor`, which is one process\n"
    )
    assert agent.main(["train"]) == 2
    assert capfd.readouterr().err == "usage: python -m ple_rec.agent [--check] [torchrun options] -- VERB [flags]\n"
    assert not (here / "runs").exists()


def test_training_that_may_be_restarted_says_how_it_goes_on(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for flag, value in (("--nnodes", "1:2"), ("--max-restarts", "3")):
        options = ["--standalone", flag, value, "--nproc-per-node", "1", "--"]
        assert agent.main([*options, "train", "--config", "tiny.toml"]) == 2
        said = capfd.readouterr().err
        assert re.fullmatch(
            "ple-rec: --nnodes [12:]+ --max-restarts [03]: without --auto-resume; ranks that are started again go on "
            "from the last checkpoint. Fix: add --auto-resume to the flags of train\n",
            said,
        ), said


def test_time_outs_of_hosts_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "0")  # as the user wishes
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "a:1"]

    def conf(*options: str) -> str:
        args = parse_args([*place, *options, "-m", "ple_rec"])
        set_rendezvous_defaults(args)
        return str(args.rdzv_conf)

    assert conf("--nnodes", "1:2") == conf("--nnodes", "2", "--max-restarts", "1") == "last_call_timeout=3"
    assert conf("--nnodes", "1:2", "--rdzv-conf", "read_timeout=9") == "read_timeout=9,last_call_timeout=3"
    assert conf("--nnodes", "1:2", "--rdzv-conf", "last_call_timeout=40") == "last_call_timeout=40"
    assert conf("--nnodes", "2") == conf("--nnodes", "1", "--max-restarts", "1") == ""
    assert os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "0"


def test_hosts_that_do_not_meet(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--rdzv-id", "x"]
    options = ["--nnodes", "2", "--nproc-per-node", "1", *place, "--rdzv-conf", "join_timeout=1"]
    assert agent.main([*options, "--", "train", "--config", "tiny.toml"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("ple-rec: rendezvous at 127.0.0.1:0: failed (")
    assert "); all 2 hosts must start and reach this address. Fix: check that every host has started" in said
    assert said.count("\n") == 1
    assert AGENT_FOLDER not in os.environ


def test_data_that_only_rank_1_finds_wrong(tmp_path: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "wrong", wrong_group=LAST_GROUP)
    argv = ["train", "--config", "tiny.toml", "--ranks", "2", "--set", "data.path=wrong/data"]
    before = set(children(os.getpid()))  # the fork server of other tests
    assert main(argv) == 3
    place = f"wrong/data/train/part-00000.parquet, row group {LAST_GROUP}, column 'click', row 5"
    assert re.fullmatch(
        f"ple-rec: rank 1: {re.escape(place)}: label 2\\.0 of task 'click'; a binary label is 0 or 1\\. Fix: .*\n",
        capfd.readouterr().err,
    )
    assert not (here / "runs" / "tiny" / "metrics.json").exists()
    assert set(children(os.getpid())) <= before


@pytest.mark.slow
def test_what_every_rank_finds_is_said_once(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--ranks", "2", "--set", "dense_optimizer.learning_rate=1e30", "--set", "train.report_every=1"]
    assert main(["train", "--config", "tiny.toml", *flags]) == 4
    said = capfd.readouterr()
    assert re.fullmatch("ple-rec: step [0-9]+: .* not finite; training stops, .*\n", said.err)
    assert (here / "runs" / "tiny" / "report.html").exists()  # which rank 0 writes before any rank ends
    assert "report: runs/tiny/report.html" in said.out
    assert not (here / "runs" / "tiny" / "checkpoints").exists()


@pytest.mark.slow
def test_what_a_rank_has_said_is_not_tried_again(tmp_path: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "wrong", wrong_group=LAST_GROUP)
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "--"]
    argv = [*options, "train", "--config", "tiny.toml", "--auto-resume", "--set", "data.path=wrong/data"]
    assert agent.main(argv) == 3
    said = capfd.readouterr().err
    assert said.startswith("ple-rec: rank 1: wrong/data/train/part-00000.parquet, row group ")
    assert said.count("\n") == 1


@contextmanager
def long_run(
    here: Path, repository: Path, *more_options: str, flags: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """An agent whose two ranks, also given, train for hours; nothing of it is left afterwards."""
    options = ["--standalone", "--nproc-per-node", "2", *more_options]
    argv = ["train", "--config", "tiny.toml", "--auto-resume", "--set", "train.epochs=1000000", *flags]
    code = f"from ple_rec.runtime.ranks import run_ranks; import sys; sys.exit(run_ranks({options!r}, {argv!r}))"
    with (here / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=said, env=environment(repository), text=True
        )
    ranks: list[int] = []
    try:
        log = here / "runs" / "tiny" / "train.jsonl"
        assert wait_until(lambda: log.exists() or process.poll() is not None, 60), (here / "said").read_text()
        ranks = sorted(children(process.pid), key=lambda child: rank_of(child) or "")
        assert [rank_of(child) for child in ranks] == ["0", "1"], (here / "said").read_text()
        yield process, ranks
    finally:
        for left in (process.pid, *ranks):
            if alive(left):
                os.kill(left, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_job_that_is_asked_to_stop_saves_and_goes_on(here: Path, repository: Path, number: signal.Signals) -> None:
    with long_run(here, repository) as (process, ranks):
        log = here / "runs" / "tiny" / "train.jsonl"
        assert wait_until(lambda: log.stat().st_size > 0, 60)  # all ranks have made steps
        process.send_signal(number)
        assert process.wait(25) == 75
        assert not any(map(alive, ranks))
    found = re.fullmatch(
        r"ple-rec: runs/tiny: asked to stop at step ([\d,]+) of 16,000,000; step-(\d+) is saved. Fix: run it again "
        r"with --resume\n",
        (here / "said").read_text(),
    )
    assert found is not None, (here / "said").read_text()
    assert found[1].replace(",", "") == found[2]
    assert (here / "runs" / "tiny" / "checkpoints" / "latest").read_text() == f"step-{found[2]}\n"


@pytest.mark.slow
def test_ctrl_c_stops_agent_and_ranks(here: Path, repository: Path) -> None:
    with long_run(here, repository) as (process, ranks):
        process.send_signal(signal.SIGINT)
        assert process.wait(25) == 130
        assert not any(map(alive, ranks))
    assert (here / "said").read_text() == "ple-rec: stopped by SIGINT\n"


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named(here: Path, repository: Path) -> None:
    with long_run(here, repository) as (process, ranks):
        os.kill(ranks[1], signal.SIGKILL)
        assert process.wait(25) == 1
        assert not any(map(alive, ranks))
    # The agent asks rank 0 to stop; it may say first that it has lost its peer.
    assert (here / "said").read_text().endswith("ple-rec: rank 1: killed by SIGKILL (the host may be out of memory)\n")


@pytest.mark.slow
def test_ranks_that_crash_start_anew_and_go_on(here: Path, repository: Path) -> None:
    with long_run(here, repository, "--max-restarts", "1") as (process, ranks):
        latest = here / "runs" / "tiny" / "checkpoints" / "latest"
        assert wait_until(latest.exists, 60)
        os.kill(ranks[0], signal.SIGKILL)  # which holds the run directory
        assert wait_until(lambda: not any(map(alive, ranks)), 25)
        assert wait_until(lambda: len(children(process.pid)) == 2, 25)
        records = (here / "runs" / "tiny" / "train.jsonl").stat().st_size
        step = int(latest.read_text().removeprefix("step-"))
        assert wait_until(lambda: (here / "runs" / "tiny" / "train.jsonl").stat().st_size > records, 60)
        assert wait_until(lambda: int(latest.read_text().removeprefix("step-")) > step, 60)
        again = children(process.pid)
        os.kill(again[0], signal.SIGKILL)
        assert process.wait(25) == 1  # no restart is left
        assert not any(map(alive, again))
    said = (here / "said").read_text()
    assert said.count("ple-rec: starts the ranks of this host anew (restart 1 of 1)\n") == said.count("anew") == 1
    assert said.count("ple-rec: rank 0: killed by SIGKILL (the host may be out of memory)\n") == 2


@pytest.mark.slow
def test_ranks_end_with_an_agent_that_is_killed(here: Path, repository: Path) -> None:
    with long_run(here, repository) as (process, ranks):
        process.kill()
        assert wait_until(lambda: not any(map(alive, ranks)), 10)
    assert (here / "said").read_text().splitlines()[0] == "ple-rec: stops, since its agent has been killed"


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named(here: Path, repository: Path) -> None:
    with long_run(here, repository, flags=["--set", "runtime.timeout_seconds=3"]) as (process, ranks):
        log = here / "runs" / "tiny" / "train.jsonl"
        assert wait_until(lambda: log.stat().st_size > 0, 60)
        os.kill(ranks[1], signal.SIGSTOP)
        assert wait_until(lambda: not alive(ranks[0]), 30)  # its watch has ended it
        assert process.wait(60) == 1  # the agent asks the other one to stop, and kills it after 30 s
        assert not any(map(alive, ranks))
    found = re.search(
        r"ple-rec: rank 0: exits, since no rank made progress for 3 s: rank 1 on \S+ does not respond; its last "
        r"operation was .*step",
        (here / "said").read_text(),
    )
    assert found is not None, (here / "said").read_text()
    assert "memory" not in (here / "said").read_text()  # nobody is to look there
