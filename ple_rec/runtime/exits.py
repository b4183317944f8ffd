"""Ends of processes: exit codes, error messages that several ranks share, and children that outlive their parent.

An agent, the process that starts the ranks of a host, shares a folder with them; the environment variable
`AGENT_FOLDER` holds its path. Its empty files are markers, by which one process tells something to the others. A verb
is a subcommand of `ple-rec`, such as `train`.
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
# Environment variable of ranks: path of a folder where they write their errors, so that the process that has started
# them can raise these errors (`first_error`).
ERROR_FOLDER = "PLE_REC_ERRORS"
# Marker of a rank: it has printed the name of a rank that makes no progress, which the agent is about to kill.
STALLED = "stalled"
# Marker of the agent: it stops its ranks in order to start them again.
RESTARTS = "restarts"
# Prefix of the marker of a rank that ends, followed by its exit code.
_EXIT_CODE_PREFIX = "ended-"
# The other markers stand for messages that a rank has printed; their names are SHA-256 digests of the messages.
_DIGEST_LENGTH = len(hashlib.sha256().hexdigest())

PREEMPTED = PreemptedError.exit_code
# Exit code of a comparison in which some of the runs have failed.
SOME_FAILED = 5
# Exit code of a day whose model is worse than the served one by more than a margin, so that it is not published.
GATE_REFUSED = 6
# Exit code after Ctrl-C.
INTERRUPTED = 130
# Exit code if the reader of the output has closed it: 128 + 13, as after SIGPIPE.
_PIPE_CLOSED = 141
# Exit codes after which ranks are not restarted: the rank has printed the reason, and either would fail again, or has
# received a stop signal.
FINAL_CODES = frozenset({UserError.exit_code, DataError.exit_code, DivergedError.exit_code, PREEMPTED})

# Seconds to wait for the end of killed processes; a process that waits for a device in the kernel may not end at once.
_PATIENCE_SECONDS = 5.0
# Seconds that a rank waits before it ends because of another rank, whose exit code must reach the agent first.
_PEER_GRACE_SECONDS = 3.0
# Seconds that other ranks wait with a message, so that rank 0 prints it if it has the same.
_RANK_0_GRACE_SECONDS = 0.5
# Seconds between two checks whether the parent process still exists.
_AGENT_CHECK_SECONDS = 1.0


def find_started_processes(agent_folder: str) -> list[int]:
    """Return the ids of all processes that have inherited the agent's folder in their environment, except this one.

    These are the ranks of the agent and their children, detached or not.
    """
    entry, processes = f"{AGENT_FOLDER}={agent_folder}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        # The process may have ended, or belong to another user.
        with suppress(OSError):
            if entry in file.read_bytes().split(b"\0") and (process := int(file.parent.name)) != os.getpid():
                processes.append(process)
    return processes


def reap(agent_folder: str) -> None:
    """Kill all processes that an agent has started, and wait up to 5 s until they are gone."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while (alive := find_started_processes(agent_folder)) and time.monotonic() < end:
        for process in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def is_under_agent() -> bool:
    """Return True if an elastic agent, ours or torchrun's, has started this process as a rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_agent() -> None:
    """Start a thread that ends this rank once its agent is gone, since a killed agent cannot stop its ranks."""
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
    """Start a thread that sends SIGTERM to this process once its parent, such as `torchx run`, is gone."""
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
    """Replace closed output streams by the null device; make the others escape characters that they cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # The parent process may have closed the stream.
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Discard buffered and further output, because its reader is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_reporting_errors(call: Callable[[], int | None]) -> int:
    """Run a verb and return its exit code; print the message of a `PleRecError`, and raise unexpected errors.

    Ctrl-C, an output that cannot be written, and the loss of another rank are expected, too, and have their exit codes.
    """
    rank = os.environ.get("RANK")
    open_output()
    try:
        code = call() or 0
        sys.stdout.flush()
        return code
    except PleRecError as error:
        # The exit code is recorded before the message is printed, since the agent may not wait for the message.
        _record_exit_code(error.exit_code)
        if not (isinstance(error, PreemptedError) and _will_restart()):
            _say(str(error), rank, is_printed=not _write_error(error, rank))
        return error.exit_code
    except KeyboardInterrupt:
        # If this process is a rank, its agent prints the message.
        if rank is None:
            sys.stderr.write("ple-rec: interrupted\n")
        return INTERRUPTED
    # The reader of the output is gone, as after `| head`.
    except BrokenPipeError:
        drop_output()
        return _PIPE_CLOSED
    except Exception as error:
        if isinstance(error, OSError) and _is_output_lost():
            fix = "send it to a terminal, or to a file that has room"
            lost = UserError("stdout", f"cannot be written ({error.strerror})", "a verb prints its results there", fix)
            _say(str(lost), rank)
            return lost.exit_code
        return _handle_lost_peer(error, rank)


def _record_exit_code(code: int) -> None:
    """Record the exit code of this rank for the agent, which may not wait for the end of the process."""
    if folder := os.environ.get(AGENT_FOLDER):
        (Path(folder) / f"{_EXIT_CODE_PREFIX}{code}").touch()
    if is_under_agent():
        # The rank ends by itself as soon as it has printed the reason.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def recorded_exit_code(agent_folder: str) -> int | None:
    """Return the final exit code that a rank has recorded in the folder of its agent; None if there is none.

    Exit code 75 of preempted ranks is not final if the agent starts them again.
    """
    final = FINAL_CODES - {PREEMPTED} if (Path(agent_folder) / RESTARTS).exists() else FINAL_CODES
    return next((code for code in sorted(final) if (Path(agent_folder) / f"{_EXIT_CODE_PREFIX}{code}").exists()), None)


def _will_restart() -> bool:
    folder = os.environ.get(AGENT_FOLDER)
    return folder is not None and (Path(folder) / RESTARTS).exists()


def _write_error(error: PleRecError, rank: str | None) -> bool:
    """Write an error to the folder that `ERROR_FOLDER` names; return False if it names none or cannot be written."""
    folder = os.environ.get(ERROR_FOLDER)
    if folder is None:
        return False
    draft = Path(folder) / f"rank-{rank or 0}.draft"
    content = json.dumps([error.exit_code, error.place, error.value, error.rule, error.fix])
    try:
        draft.write_text(content, encoding="utf-8")
        draft.replace(draft.with_suffix(".json"))
    # The folder is gone, and with it the process that would read the error.
    except OSError:
        return False
    return True


def first_error(folder: Path) -> PleRecError | None:
    """Return the first error that a rank has written to a folder; None if there is none."""
    files = sorted(folder.glob("rank-*.json"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        return None
    code, *parts = json.loads(files[0].read_text(encoding="utf-8"))
    kinds = {kind.exit_code: kind for kind in (UserError, DataError, DivergedError, PreemptedError)}
    return kinds.get(code, PleRecError)(*parts)


def _is_output_lost() -> bool:
    """Return True if standard output cannot be written; further output is then discarded."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        drop_output()
        return True
    return False


def _say(message: str, rank: str | None, *, is_printed: bool = True) -> None:
    """Print a message unless another rank of the same agent has printed it, and leave a marker that it is known.

    Args:
        message: Text of one or more lines.
        rank: Number of this rank; None if this process is no rank.
        is_printed: False if the process that has started the ranks prints the message, and this one only marks it.
    """
    # The message may quote a file of unknown origin, with control characters.
    message = printable_lines(message)
    # Other ranks wait for rank 0, so that an error of all ranks is printed once, without the name of a rank.
    if rank not in (None, "0"):
        time.sleep(_RANK_0_GRACE_SECONDS)
    if folder := os.environ.get(AGENT_FOLDER):
        try:
            (Path(folder) / hashlib.sha256(message.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            return
    if is_printed:
        sys.stderr.write(f"ple-rec: {'' if rank in (None, '0') else f'rank {rank}: '}{message}\n")


def _handle_lost_peer(error: Exception, rank: str | None) -> int:
    """Return the exit code of a rank whose error says that it has lost other ranks; raise any other error."""
    if rank is None:
        raise error
    from ple_rec.distributed.collectives import PeerError
    from ple_rec.distributed.process_group import is_lost_peer

    if not isinstance(error, PeerError) and not is_lost_peer(error):
        raise error
    if isinstance(error, PeerError):
        _record_exit_code(error.exit_code)
    if os.environ.get("LOCAL_WORLD_SIZE") != "1":
        # The exit code of the rank that failed must reach the agent before that of this rank.
        time.sleep(_PEER_GRACE_SECONDS)
    if isinstance(error, PeerError):
        return error.exit_code
    # If the rank that failed is on this host, it has printed a message that says more than this one.
    if not _any_message_printed():
        sys.stderr.write(f"ple-rec: rank {rank}: stops, since another rank has failed\n")
    return 1


def _any_message_printed() -> bool:
    """Return True if a rank of the same agent has printed a message."""
    folder = os.environ.get(AGENT_FOLDER)
    return folder is not None and any(len(file.name) == _DIGEST_LENGTH for file in Path(folder).iterdir())


def print_killed_ranks(codes: Mapping[Any, int]) -> None:
    """Print which ranks a signal has killed.

    Args:
        codes: Exit code of each rank, by rank; -s if signal s has killed it.
    """
    for rank, code in codes.items():
        if code < 0:
            hint = " (the host may be out of memory)" if code == -signal.SIGKILL else ""
            sys.stderr.write(f"ple-rec: rank {rank}: killed by {signal.Signals(-code).name}{hint}\n")
            sys.stderr.flush()
