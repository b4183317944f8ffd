"""Ends of processes: exit codes, messages that several ranks would repeat, and children that outlive their parent."""

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

STALLED = "stalled"  # a file of the folder of `SAID`: a rank has named one that stands still, which the agent kills
SAID = "PLE_REC_SAID"  # environment of ranks and their children: a folder of the agent that started them
_PATIENCE_SECONDS = 5.0  # a process that waits in the kernel, for a device, may not die at once


def started_by(said: str) -> list[int]:
    """Processes of the agent whose folder is `said`, however they detached themselves; this one is not among them."""
    entry, found = f"{SAID}={said}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if entry in file.read_bytes().split(b"\0") and (process := int(file.parent.name)) != os.getpid():
                found.append(process)
    return found


def reap(said: str) -> None:
    """Kill all processes of an agent, and wait until they are gone."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while (left := started_by(said)) and time.monotonic() < end:
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


PREEMPTED = PreemptedError.exit_code
SOME_FAILED = 5  # of several runs
INTERRUPTED = 130  # by Ctrl-C
# Exit codes of a rank that has said why it ended, and would end so again.
FINAL_CODES = frozenset({UserError.exit_code, DataError.exit_code, DivergedError.exit_code, PREEMPTED})
# Files of the folder of `SAID`, by which an agent and its ranks know of each other:
RESTARTS = "restarts"  # the agent stops its ranks to start them again
_ENDED = "ended-"  # with an exit code: a rank ends with it
ERRORS = "PLE_REC_ERRORS"  # environment: a folder where ranks leave their errors, for a process that raises them
_PEER_GRACE_SECONDS = 3.0
_RANK_0_GRACE_SECONDS = 0.5
_AGENT_CHECK_SECONDS = 1.0
_DIGEST = len(hashlib.sha256().hexdigest())  # characters of a name that stands for a message
_PIPE_CLOSED = 141  # as of a process that SIGPIPE ends


def under_agent() -> bool:
    """Return whether an elastic agent, ours or torchrun's, has started this process as a rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_agent() -> None:
    """Let this rank end once its agent is gone (killed, so that it could not stop its ranks)."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(_AGENT_CHECK_SECONDS)
        sys.stderr.write("ple-rec: stops, since its agent has been killed\n")
        if said := os.environ.get(SAID):
            reap(said)  # its children, which nobody else knows
        os._exit(1)  # the main thread may wait in a collective

    threading.Thread(target=watch, name="agent-watch", daemon=True).start()


def stop_with_parent() -> None:
    """Let this process be asked to stop once the one that started it is gone, as `torchx run` that was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_AGENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code.

    Where torch was loaded, the interpreter is not torn down: threads of torch's process groups now and then outlive
    it, and a run that had finished would end by SIGABRT ("terminate called without an active exception"). By then
    every file is closed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if "torch" in sys.modules:
        os._exit(code)
    sys.exit(code)


def open_output() -> None:
    """Let what is printed reach a stream that takes it: no closed one, none that refuses characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever has started this process
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Let what is still buffered, and what is printed from here on, go nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def guarded(call: Callable[[], int | None]) -> int:
    """Run a verb; a user's error becomes its message and exit code, anything else a traceback and 1."""
    rank = os.environ.get("RANK")
    open_output()
    try:
        code = call() or 0
        sys.stdout.flush()
        return code
    except PleRecError as error:
        _mark_end(error.exit_code)  # first: the agent may not wait for what is said
        if not (isinstance(error, PreemptedError) and _will_restart()):
            _say(str(error), rank, aloud=not _leave(error, rank))
        return error.exit_code
    except KeyboardInterrupt:
        if rank is None:  # else the agent says it
            sys.stderr.write("ple-rec: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read what is printed has gone, as in `| head`
        drop_output()
        return _PIPE_CLOSED
    except Exception as error:
        if isinstance(error, OSError) and _output_is_lost():
            fix = "send it to a terminal, or to a file that has room"
            lost = UserError("stdout", f"cannot be written ({error.strerror})", "a verb tells there what it does", fix)
            _say(str(lost), rank)
            return lost.exit_code
        return _peer_failed(error, rank)


def _mark_end(code: int) -> None:
    """Let the agent know the exit code of this rank, even where it does not wait for its end."""
    if folder := os.environ.get(SAID):
        (Path(folder) / f"{_ENDED}{code}").touch()
    if under_agent():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends by itself, once it has said why


def marked_end(folder: str) -> int | None:
    """Return the final exit code that a rank has marked in the folder of its agent, or None.

    The code of ranks that stopped to be started again is not final.
    """
    final = FINAL_CODES - {PREEMPTED} if (Path(folder) / RESTARTS).exists() else FINAL_CODES
    return next((code for code in sorted(final) if (Path(folder) / f"{_ENDED}{code}").exists()), None)


def _will_restart() -> bool:
    folder = os.environ.get(SAID)
    return folder is not None and (Path(folder) / RESTARTS).exists()


def _leave(error: PleRecError, rank: str | None) -> bool:
    """Write the four parts of an error to the folder of `ERRORS`, if the environment has one; return if it has."""
    folder = os.environ.get(ERRORS)
    if folder is None:
        return False
    draft = Path(folder) / f"rank-{rank or 0}.draft"
    try:
        draft.write_text(json.dumps([error.exit_code, error.place, error.value, error.rule, error.fix]))
        draft.replace(draft.with_suffix(".json"))
    except OSError:  # whoever wants to read it has gone
        return False
    return True


def left_error(folder: Path) -> PleRecError | None:
    """Return the first error that a rank has left in the folder of `ERRORS`."""
    files = sorted(folder.glob("rank-*.json"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        return None
    code, *parts = json.loads(files[0].read_text(encoding="utf-8"))
    kinds = {kind.exit_code: kind for kind in (UserError, DataError, DivergedError, PreemptedError)}
    return kinds.get(code, PleRecError)(*parts)


def _output_is_lost() -> bool:
    """Return whether what is printed cannot be written; it goes nowhere then."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        drop_output()
        return True
    return False


def _say(message: str, rank: str | None, *, aloud: bool = True) -> None:
    """Print a message, unless another rank that the same agent has started has printed it.

    Args:
        message: The message.
        rank: Number of this rank; None in a process that is none.
        aloud: False where whoever has started the ranks will tell it.
    """
    message = printable_lines(message)  # it may name what a stranger's file holds
    if rank not in (None, "0"):
        time.sleep(_RANK_0_GRACE_SECONDS)  # what is wrong on every rank needs no rank's name
    if folder := os.environ.get(SAID):
        try:
            (Path(folder) / hashlib.sha256(message.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return
    if aloud:
        sys.stderr.write(f"ple-rec: {'' if rank in (None, '0') else f'rank {rank}: '}{message}\n")


def _peer_failed(error: Exception, rank: str | None) -> int:
    """Exit code of a rank that lost its peers; any other error goes on as a bug."""
    if rank is None:
        raise error
    from ple_rec.distributed.collectives import PeerError
    from ple_rec.distributed.process_group import is_lost_peer

    if not isinstance(error, PeerError) and not is_lost_peer(error):
        raise error
    if isinstance(error, PeerError):
        _mark_end(error.exit_code)
    if os.environ.get("LOCAL_WORLD_SIZE") != "1":
        # The rank that failed says why; its exit code must reach the agent before this one's does.
        time.sleep(_PEER_GRACE_SECONDS)
    if isinstance(error, PeerError):
        return error.exit_code
    if not _has_been_said():  # on this host; however late that rank ends, its message tells more than this one
        sys.stderr.write(f"ple-rec: rank {rank}: stops, since another rank has failed\n")
    return 1


def _has_been_said() -> bool:
    """Return whether a rank of the same agent has printed a message."""
    folder = os.environ.get(SAID)
    return folder is not None and any(len(file.name) == _DIGEST for file in Path(folder).iterdir())


def say_killed(codes: Mapping[Any, int]) -> None:
    """Name the ranks that a signal has ended."""
    for rank, code in codes.items():
        if code < 0:
            why = " (the host may be out of memory)" if code == -signal.SIGKILL else ""
            sys.stderr.write(f"ple-rec: rank {rank}: killed by {signal.Signals(-code).name}{why}\n")
            sys.stderr.flush()
