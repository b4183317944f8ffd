"""Start of ranks on this host by torchrun's elastic agent, and the exit code that follows from those of the ranks.

A verb is a subcommand of `ple-rec`, such as `train`; each rank is a process that runs it. The agent is the process that
starts and watches the ranks of a host.
"""

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
from ple_rec.runtime.exits import AGENT_FOLDER, FINAL_CODES, STALLED, print_killed_ranks, reap, recorded_exit_code
from ple_rec.runtime.host import default_threads

# By default, torchrun handles all but the last. Slurm sends SIGUSR1 before the end of a job if it was asked to
# (--signal=USR1@60).
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def possible_world_sizes(options: Sequence[str]) -> list[int]:
    """Return the numbers of ranks of a job that these options of torchrun allow, the largest first.

    There are several if `--nnodes` is a range of hosts.
    """
    from torch.distributed.run import determine_local_world_size, parse_args, parse_min_max_nnodes

    args = parse_args([*options, "-m", "ple_rec"])
    least, most = parse_min_max_nnodes(args.nnodes)
    return [hosts * determine_local_world_size(args.nproc_per_node) for hosts in range(most, least - 1, -1)]


def check_restarts(options: Sequence[str], verb: Sequence[str]) -> None:
    """Refuse a training whose ranks may be restarted, but would then begin from the start.

    Args:
        options: Options of torchrun.
        verb: Verb of `ple-rec` with its flags.

    Raises:
        UserError: The verb is `train` without `--auto-resume`, and the ranks may be restarted.
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
        options: Options of torchrun.
        verb: Verb of `ple-rec` with its flags; a rank ignores `--ranks`.

    Returns:
        0 if all ranks succeed; 2, 3 or 4 if a rank ends with this code; 75 if the ranks have received a stop signal and
        stopped; 128 + s if signal s stopped this process; else 1. All ranks and their children have ended, or have been
        killed, when it returns.

    Raises:
        PleRecError: The hosts of the job do not find each other at its start, or lose each other later.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import (
        RendezvousClosedError,
        RendezvousConnectionError,
        RendezvousError,
    )
    from torch.distributed.run import determine_local_world_size, parse_args, run

    from ple_rec.runtime.elastic import STARTED, set_rendezvous_defaults, store_lost_error, use_agent

    # The agent's own report of a failure repeats the message of the rank at length.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.run").setLevel(logging.ERROR)
    args = parse_args(["--signals-to-handle", _SIGNALS, *options, "-m", "ple_rec", *verb])
    set_rendezvous_defaults(args)
    # Torchrun would set OMP_NUM_THREADS to 1, which a rank would take for the user's choice. So the default number of
    # threads of a rank is set here.
    ranks_on_host = determine_local_world_size(args.nproc_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(default_threads(ranks_on_host)))
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as agent_folder:
        # The ranks inherit the environment.
        os.environ[AGENT_FOLDER] = agent_folder
        try:
            with use_agent(args):
                run(args)
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            return _exit_code(codes, stalled=(Path(agent_folder) / STALLED).exists())
        except RendezvousError as error:
            # A rank of this host may have ended the job, so that the rendezvous was closed; then its exit code counts.
            if (code := recorded_exit_code(agent_folder)) is not None:
                return code
            started = (Path(agent_folder) / STARTED).exists()
            if started and isinstance(error, RendezvousConnectionError):
                raise store_lost_error(args.rdzv_endpoint) from error
            if started and isinstance(error, RendezvousClosedError):
                raise PleRecError(
                    "the job",
                    "was ended by another host",
                    "an error of one rank ends the job on all hosts",
                    "look at the output of the other hosts",
                ) from error
            raise PleRecError(
                f"rendezvous at {args.rdzv_endpoint}",
                f"failed ({' '.join(str(error).split())})",
                f"all {args.nnodes} hosts must start and reach this address",
                "check that every host has started, and that its network lets it connect to the address",
            ) from error
        except Exception as error:
            signal_number = _find_signal(error)
            if signal_number is None:
                raise
            # A rank that has recorded an exit code has printed the last saved step, or the reason of an earlier end.
            if (code := recorded_exit_code(agent_folder)) is not None:
                return code
            print(f"ple-rec: stopped by {signal_number.name}", file=sys.stderr, flush=True)
            return 128 + int(signal_number)
        finally:
            reap(agent_folder)
            del os.environ[AGENT_FOLDER]
    return 0


def _find_signal(error: BaseException | None) -> signal.Signals | None:
    """Return the signal whose exception is among the causes of an error; None if there is none."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    while error is not None:
        if isinstance(error, SignalException):
            return signal.Signals(error.sigval)
        error = error.__cause__ or error.__context__
    return None


def _exit_code(codes: Mapping[Any, int], *, stalled: bool = False) -> int:
    """Return the exit code of a job with failed ranks, and print which of them a signal has killed.

    Args:
        codes: Exit code of each rank that failed, by rank.
        stalled: True if a rank has already printed which rank makes no progress; the agent has killed that rank.
    """
    # The agent stops all other ranks by SIGTERM once one has failed.
    own = {rank: code for rank, code in codes.items() if code != -signal.SIGTERM} or codes
    print_killed_ranks({} if stalled else own)
    return next((code for code in own.values() if code in FINAL_CODES), 1)


def run_local_ranks(ranks: int, verb: Sequence[str]) -> int:
    """Run `ple-rec <verb>` on ranks of this host and return the exit code of `run_ranks`.

    Args:
        ranks: Number of ranks.
        verb: Verb of `ple-rec` with its flags; a rank ignores `--ranks`.
    """
    return run_ranks(["--standalone", "--nproc-per-node", str(ranks)], verb)


def run_verb(verb: Sequence[str]) -> int:
    """Run `ple-rec <verb>` in a process of its own and return its exit code."""
    return subprocess.run([sys.executable, "-m", "ple_rec", *verb], check=False).returncode
