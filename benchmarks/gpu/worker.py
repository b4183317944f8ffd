"""Process that runs stages one after the other, so that torch is imported once.

If a stage fails or takes too long, the process is killed with all that it started, and a new one runs the next stage: a
failed kernel makes every later one in its process fail, and a hang cannot be ended otherwise.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.gpu.stage import Deadline, SmokeStage, StageSettings
from ple_rec.errors import UserError

# The worker writes the stacks of its threads at the deadline, and is killed this many seconds later.
_SECONDS_FOR_STACKS = 1.0
# Lines of the log that tell why a stage has failed.
_LINES_OF_LOG = 40


class WorkerMessage(NamedTuple):
    """Message of the worker.

    Args:
        kind: "line" for a line of the page. The others end the stage: "end" with its summary, "failed" with its error,
            and "refused" with a `UserError`.
        text: Line, summary or message of the error.
    """

    kind: Literal["line", "end", "failed", "refused"]
    text: str


class StageFailedError(Exception):
    """Error for a stage that has raised an error, was not done at its deadline, or has ended its process.

    Args:
        reason: Reason in one line.
        log_lines: Last lines of the output of the stage.
        is_refusal: True if the stage has raised a `UserError`.
    """

    def __init__(self, reason: str, log_lines: list[str], *, is_refusal: bool) -> None:
        super().__init__(reason)
        self.log_lines, self.is_refusal = log_lines, is_refusal


class StageWorker:
    """Parent's side of the process that runs stages.

    Args:
        log: File to which the output of the stages is appended.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: multiprocessing.process.BaseProcess | None = None

    def run(self, stage: SmokeStage, settings: StageSettings, seconds: float) -> Iterator[WorkerMessage]:
        """Run a stage. Yield a message for each line of the page, and at the end a message with the summary.

        Raises:
            StageFailedError: The stage has failed.
        """
        if self._process is None:
            self._start()
        start_of_log = self._log.stat().st_size
        self._pipe.send((stage, settings, seconds))
        deadline = Deadline(seconds + _SECONDS_FOR_STACKS)
        reason, is_refusal = f"not done after {seconds:.0f} s", False
        try:
            while self._pipe.poll(max(0.0, deadline.seconds_left())):
                message = self._pipe.recv()
                if message.kind in ("failed", "refused"):
                    reason, is_refusal = message.text, message.kind == "refused"
                    break
                yield message
                if message.kind == "end":
                    return
        except EOFError:  # The process has ended, which closes the pipe.
            reason = f"its process has ended with exit code {self.close()}"
        self.close()
        lines = self._log.read_bytes()[start_of_log:].decode(errors="replace").splitlines()
        raise StageFailedError(reason, lines[-_LINES_OF_LOG:], is_refusal=is_refusal)

    def close(self) -> int | None:
        """Kill the process with all that it started, and return its exit code."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        self._pipe.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return process.exitcode

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe_of_worker = context.Pipe()
        self._log.touch()
        self._process = context.Process(target=_serve, args=(pipe_of_worker, self._log))
        self._process.start()
        pipe_of_worker.close()


def _serve(pipe: Connection, log: Path) -> None:
    """Run the stages that arrive on the pipe until it is closed or one fails."""
    os.setsid()  # The parent kills all processes of this session.
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    faulthandler.enable()
    with suppress(EOFError):
        while True:
            stage, settings, seconds = pipe.recv()
            sys.stderr.write(f"== {stage.name}\n")
            faulthandler.dump_traceback_later(seconds)
            try:
                lines = stage.run(settings, Deadline(seconds))
                while True:
                    pipe.send(WorkerMessage("line", next(lines)))
            except StopIteration as end:
                pipe.send(WorkerMessage("end", end.value))
            except Exception as error:  # A library may raise anything; the parent reports it.
                traceback.print_exc()
                kind: Literal["refused", "failed"] = "refused" if isinstance(error, UserError) else "failed"
                text = str(error) if kind == "refused" else f"{type(error).__name__}: {error}"
                pipe.send(WorkerMessage(kind, " ".join(text.split())))
                signal.pause()  # The parent ends this process.
            faulthandler.cancel_dump_traceback_later()
