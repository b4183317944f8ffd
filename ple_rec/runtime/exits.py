"""Ends of processes: exit codes, messages that several ranks share, and children that outlive their parent.

An agent and the ranks that it starts share a folder, whose path is in the environment variable `AGENT_FOLDER`. Empty
files in it are marks that one of them leaves for the others.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ple_rec.errors import DataError, DivergedError, PleRecError, PreemptedError, UserError
from ple_rec.text import printable_lines

# Environment variable of ranks and their children: path of the folder of the agent that started them.
AGENT_FOLDER = "PLE_REC_SAID"
# Environment variable: path of a folder where ranks write their errors, for a process that raises them.
ERROR_FOLDER = "PLE_REC_ERRORS"
# Mark of a rank: it has named a rank that stands still, which the agent is about to kill.
STALLED = "stalled"
# Mark of the agent: it stops its ranks to start them again.
RESTARTS = "restarts"
# Mark of a rank that ends; its exit code follows.
_ENDED = "ended-"
# The other marks are messages that a rank has printed, each as a digest of this length.
_DIGEST_LENGTH = len(hashlib.sha256().hexdigest())

PREEMPTED = PreemptedError.exit_code
# Some of several runs have failed.
SOME_FAILED = 5
# The user has pressed Ctrl-C.
INTERRUPTED = 130
# SIGPIPE would have ended the process with this code.
_PIPE_CLOSED = 141
# A rank that ends with one of these codes has printed why, and would end so again.
FINAL_CODES = frozenset({UserError.exit_code, DataError.exit_code, DivergedError.exit_code, PREEMPTED})

# A process that waits for a device in the kernel may not die at once.
_PATIENCE_SECONDS = 5.0
_PEER_GRACE_SECONDS = 3.0
_RANK_0_GRACE_SECONDS = 0.5
_AGENT_CHECK_SECONDS = 1.0


def started_by(agent_folder: str) -> list[int]:
    """Return the ids of the processes that an agent has started, detached or not, apart from this process."""
    entry, processes = f"{AGENT_FOLDER}={agent_folder}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        # The process may have ended, or belong to another user.
        with suppress(OSError):
            if entry in file.read_bytes().split(b"\0") and (process := int(file.parent.name)) != os.getpid():
                processes.append(process)
    return processes


def reap(agent_folder: str) -> None:
    """Kill all processes that an agent has started, and wait until they are gone."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while (alive := started_by(agent_folder)) and time.monotonic() < end:
        for process in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def under_agent() -> bool:
    """Return True if an elastic agent, ours or torchrun's, has started this process as a rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_agent() -> None:
    """End this rank once its agent is gone, since an agent that is killed cannot stop its ranks."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(_AGENT_CHECK_SECONDS)
        sys.stderr.write("ple-rec: stops, since its agent has been killed\n")
        # The children of the rank have no other process that would end them.
        if agent_folder := os.environ.get(AGENT_FOLDER):
            reap(agent_folder)
        # The main thread may wait in a collective, so an exception would not end the process.
        os._exit(1)

    threading.Thread(target=watch, name="agent-watch", daemon=True).start()


def stop_with_parent() -> None:
    """Send SIGTERM to this process once its parent, such as `torchx run`, is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_AGENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code.

    If torch was loaded, the interpreter is not torn down. Threads of torch's process groups sometimes outlive it, and
    would end a finished run by SIGABRT ("terminate called without an active exception"). Call this once every file is
    closed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if "torch" in sys.modules:
        os._exit(code)
    sys.exit(code)


def open_output() -> None:
    """Replace closed output streams by the null device; let the others escape characters that they cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # The parent process may have closed the stream.
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Discard buffered and further output, whose reader is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def guarded(call: Callable[[], int | None]) -> int:
    """Run a verb and return its exit code; print the message of a user's error, and raise any other error."""
    rank = os.environ.get("RANK")
    open_output()
    try:
        code = call() or 0
        sys.stdout.flush()
        return code
    except PleRecError as error:
        # The mark comes before the message, since the agent may not wait for the message.
        _mark_end(error.exit_code)
        if not (isinstance(error, PreemptedError) and _will_restart()):
            _say(str(error), rank, aloud=not _write_error(error, rank))
        return error.exit_code
    except KeyboardInterrupt:
        # For a rank, the agent prints it.
        if rank is None:
            sys.stderr.write("ple-rec: interrupted\n")
        return INTERRUPTED
    # The reader of the output is gone, as after `| head`.
    except BrokenPipeError:
        drop_output()
        return _PIPE_CLOSED
    except Exception as error:
        if isinstance(error, OSError) and _output_is_lost():
            fix = "send it to a terminal, or to a file that has room"
            lost = UserError("stdout", f"cannot be written ({error.strerror})", "a verb prints its results there", fix)
            _say(str(lost), rank)
            return lost.exit_code
        return _peer_failed(error, rank)


def _mark_end(code: int) -> None:
    """Tell the agent the exit code of this rank, for which it may not wait."""
    if folder := os.environ.get(AGENT_FOLDER):
        (Path(folder) / f"{_ENDED}{code}").touch()
    if under_agent():
        # The rank ends by itself once it has printed why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def marked_end(agent_folder: str) -> int | None:
    """Return the final exit code that a rank has marked in the folder of its agent, or None.

    The code 75 of ranks that stop is not final if the agent starts them again.
    """
    final = FINAL_CODES - {PREEMPTED} if (Path(agent_folder) / RESTARTS).exists() else FINAL_CODES
    return next((code for code in sorted(final) if (Path(agent_folder) / f"{_ENDED}{code}").exists()), None)


def _will_restart() -> bool:
    folder = os.environ.get(AGENT_FOLDER)
    return folder is not None and (Path(folder) / RESTARTS).exists()


def _write_error(error: PleRecError, rank: str | None) -> bool:
    """Write an error for the process that raises it; return False if the environment names no folder for it."""
    folder = os.environ.get(ERROR_FOLDER)
    if folder is None:
        return False
    draft = Path(folder) / f"rank-{rank or 0}.draft"
    try:
        draft.write_text(json.dumps([error.exit_code, error.place, error.value, error.rule, error.fix]))
        draft.replace(draft.with_suffix(".json"))
    # The process that would read the error is gone.
    except OSError:
        return False
    return True


def first_error(folder: Path) -> PleRecError | None:
    """Return the first error that a rank has written to a folder, or None if there is none."""
    files = sorted(folder.glob("rank-*.json"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        return None
    code, *parts = json.loads(files[0].read_text(encoding="utf-8"))
    kinds = {kind.exit_code: kind for kind in (UserError, DataError, DivergedError, PreemptedError)}
    return kinds.get(code, PleRecError)(*parts)


def _output_is_lost() -> bool:
    """Return True if standard output cannot be written; output is discarded then."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        drop_output()
        return True
    return False


def _say(message: str, rank: str | None, *, aloud: bool = True) -> None:
    """Print a message, unless another rank of the same agent has printed it.

    Args:
        message: Text of one or more lines.
        rank: Number of this rank; None if this process is no rank.
        aloud: False if the process that has started the ranks prints the message.
    """
    # The message may quote a file from elsewhere, with control characters.
    message = printable_lines(message)
    # Rank 0 goes first, so that an error of all ranks is printed without the name of a rank.
    if rank not in (None, "0"):
        time.sleep(_RANK_0_GRACE_SECONDS)
    if folder := os.environ.get(AGENT_FOLDER):
        try:
            (Path(folder) / hashlib.sha256(message.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return
    if aloud:
        sys.stderr.write(f"ple-rec: {'' if rank in (None, '0') else f'rank {rank}: '}{message}\n")


def _peer_failed(error: Exception, rank: str | None) -> int:
    """Return the exit code of a rank that has lost its peers, or raise any other error."""
    if rank is None:
        raise error
    from ple_rec.distributed.collectives import PeerError
    from ple_rec.distributed.process_group import is_lost_peer

    if not isinstance(error, PeerError) and not is_lost_peer(error):
        raise error
    if isinstance(error, PeerError):
        _mark_end(error.exit_code)
    if os.environ.get("LOCAL_WORLD_SIZE") != "1":
        # The rank that failed prints why. Its exit code must reach the agent before that of this rank.
        time.sleep(_PEER_GRACE_SECONDS)
    if isinstance(error, PeerError):
        return error.exit_code
    # The message of the rank that failed tells more than this one, if that rank is on this host.
    if not _any_message_printed():
        sys.stderr.write(f"ple-rec: rank {rank}: stops, since another rank has failed\n")
    return 1


def _any_message_printed() -> bool:
    """Return True if a rank of the same agent has printed a message."""
    folder = os.environ.get(AGENT_FOLDER)
    return folder is not None and any(len(file.name) == _DIGEST_LENGTH for file in Path(folder).iterdir())


def say_killed(codes: Mapping[Any, int]) -> None:
    """Print the ranks that a signal has ended; `codes` has the exit code of each rank."""
    for rank, code in codes.items():
        if code < 0:
            why = " (the host may be out of memory)" if code == -signal.SIGKILL else ""
            sys.stderr.write(f"ple-rec: rank {rank}: killed by {signal.Signals(-code).name}{why}\n")
            sys.stderr.flush()
