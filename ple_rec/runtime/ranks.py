"""Ranks of a verb on this host: torchrun's elastic agent, ending with the exit code of its ranks."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.errors import PleRecError, UserError
from ple_rec.runtime.exits import FINAL_CODES, SAID, STALLED, marked_end, reap, say_killed
from ple_rec.runtime.host import default_threads

# Beside torchrun's own: Slurm sends SIGUSR1 ahead of the end where a job asks for it (--signal=USR1@60).
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def world_sizes_of(options: Sequence[str]) -> list[int]:
    """Ranks that torchrun would start with these options: one number, or, where it is elastic, all, the most first."""
    from torch.distributed.run import determine_local_world_size, parse_args, parse_min_max_nnodes

    args = parse_args([*options, "-m", "ple_rec"])
    least, most = parse_min_max_nnodes(args.nnodes)
    return [hosts * determine_local_world_size(args.nproc_per_node) for hosts in range(most, least - 1, -1)]


def check_restarts(options: Sequence[str], verb: Sequence[str]) -> None:
    """Refuse training that may be restarted and would not go on then.

    Raises:
        UserError: `--auto-resume` is missing.
    """
    from torch.distributed.run import parse_args

    from ple_rec.runtime.elastic import may_restart

    args = parse_args([*options, "-m", "ple_rec"])
    if verb[:1] == ["train"] and may_restart(args) and "--auto-resume" not in verb:
        raise UserError(
            f"--nnodes {args.nnodes} --max-restarts {args.max_restarts}",
            "without --auto-resume",
            "ranks that are started again go on from the last checkpoint",
            "add --auto-resume to the flags of train",
        )


def run_ranks(options: Sequence[str], verb: Sequence[str]) -> int:
    """Run `ple-rec <verb>` on every rank.

    Args:
        options: Of torchrun.
        verb: Of `ple-rec`, with its flags; a rank ignores `--ranks`.

    Returns:
        0, or the exit code of the rank that failed: 2, 3 or 4 where any rank said so, 75 where the ranks were asked to
        stop and did, 128 + s where signal s stopped this process, else 1. No process that a rank started is left.

    Raises:
        PleRecError: the hosts do not find each other, or lose each other.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import (
        RendezvousClosedError,
        RendezvousConnectionError,
        RendezvousError,
    )
    from torch.distributed.run import determine_local_world_size, parse_args, run

    from ple_rec.runtime.elastic import STARTED, agent_of_this_job, prepare, store_lost

    # The agent's own account of a failure repeats, at length, what the rank has said.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.ERROR)
    args = parse_args(["--signals-to-handle", _SIGNALS, *options, "-m", "ple_rec", *verb])
    prepare(args)
    # As many as a rank takes by itself: torchrun would say 1, which a rank takes for the user's word.
    here = determine_local_world_size(args.nproc_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(default_threads(here)))
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as said:
        os.environ[SAID] = said  # the ranks inherit it
        try:
            with agent_of_this_job(args):
                run(args)
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            return _exit_code(codes, stalled=(Path(said) / STALLED).exists())
        except RendezvousError as error:
            if (code := marked_end(said)) is not None:
                return code  # what ended the job on another host, and its rendezvous, ended it here
            started = (Path(said) / STARTED).exists()
            if started and isinstance(error, RendezvousConnectionError):
                raise store_lost(args.rdzv_endpoint) from error
            if started and isinstance(error, RendezvousClosedError):
                raise PleRecError(
                    "the job",
                    "was ended by another host",
                    "what ends a rank with a message ends the job on all hosts",
                    "look at what the other hosts have said",
                ) from error
            raise PleRecError(
                f"rendezvous at {args.rdzv_endpoint}",
                f"failed ({' '.join(str(error).split())})",
                f"all {args.nnodes} hosts must come and reach that address",
                "look whether every host has started, and whether its network lets it connect there",
            ) from error
        except Exception as error:
            stopped = _signal_of(error)
            if stopped is None:
                raise
            if (code := marked_end(said)) is not None:  # a rank has said how far it came, or why it ended before
                return code
            print(f"ple-rec: stopped by {stopped.name}", file=sys.stderr, flush=True)
            return 128 + int(stopped)
        finally:
            reap(said)
            del os.environ[SAID]
    return 0


def _signal_of(error: BaseException | None) -> signal.Signals | None:
    """The signal that torch's agent has raised, wherever it was just then: another error may have come over it."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    while error is not None:
        if isinstance(error, SignalException):
            return signal.Signals(error.sigval)
        error = error.__cause__ or error.__context__
    return None


def _exit_code(codes: Mapping[Any, int], *, stalled: bool = False) -> int:
    """Exit code for the ranks that failed; a rank that was killed cannot have said so itself.

    Args:
        codes: By rank.
        stalled: A rank has said that another one stands still, which the agent has killed then.
    """
    # The agent stops the others by SIGTERM once one has failed.
    own = {rank: code for rank, code in codes.items() if code != -signal.SIGTERM} or codes
    say_killed({} if stalled else own)
    return next((code for code in own.values() if code in FINAL_CODES), 1)


def run_local_ranks(ranks: int, verb: Sequence[str]) -> int:
    """Run `ple-rec <verb>` on ranks of this host.

    Args:
        ranks: Number of ranks.
        verb: Words of `ple-rec`; a rank ignores `--ranks`.
    """
    return run_ranks(["--standalone", "--nproc-per-node", str(ranks)], verb)


def run_verb(verb: Sequence[str]) -> int:
    """Run `ple-rec <verb>` in a process of its own; its exit code."""
    return subprocess.run([sys.executable, "-m", "ple_rec", *verb], check=False).returncode
