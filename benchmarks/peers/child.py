"""Child process of a contender. The driver sends it commands and receives answers; see `benchmarks.peers.protocol`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.errors import PleRecError

_PATIENCE_SECONDS = 20.0  # Time in which a process has to end when its input ends, and again after SIGTERM.
# Number of lines of the log that an error message shows.
_LOG_LINES = 8


@dataclass(frozen=True)
class Contender:
    """Program that trains the workload: this project, a library, or layers as people usually write them.

    Args:
        name: Name on the command line.
        title: Title in the table.
        command: Command that starts it; the file of the workload is added as an argument.
        table_copies: Memory for tables as a multiple of the size of their weights: weights, gradients, optimizer states
            and temporaries.
        library: True for a library that a user may choose instead of ours.
        ours: True for this project.
        extra_arguments: Arguments of its command after the file of the workload.
    """

    name: str
    title: str
    command: Sequence[str]
    table_copies: float
    library: bool = False
    ours: bool = False
    extra_arguments: Sequence[str] = ()


class Child:
    """Process of a contender, which waits between its turns.

    Args:
        contender: Contender that the process runs.
        workload: File of the workload.
        log: File of the output that the process prints.
        threads: Number of threads that its libraries may start.
        root: Folder in which the commands of all contenders run.
    """

    def __init__(self, contender: Contender, workload: Path, log: Path, threads: int, root: Path) -> None:
        self.contender, self.log = contender, log
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*contender.command, str(workload), *contender.extra_arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=root,
                env=environment,
                text=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The process ends when its input does.
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()

    def receive(self) -> dict[str, Any]:
        """Return the next message of the contender.

        Raises:
            PleRecError: The contender has reported an error or has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        if "error" in answer or not line:
            raise PleRecError(
                self.contender.name,
                answer.get("error") or f"its process ended with {self._process.wait()}\n{self._log_tail()}",
                "a contender answers every command",
                f"look into {self.log}, or leave it out by --contenders",
            )
        return answer

    def run(self, mode: str, steps: int, warm_up_steps: int) -> dict[str, Any]:
        """Run a turn and return its `samples`, `seconds` and `peak_bytes`.

        Args:
            mode: Name of a mode of the contender, such as `step` or `own loop`.
            steps: Number of measured steps.
            warm_up_steps: Number of steps before them, which are not measured.

        Raises:
            PleRecError: The contender has reported an error or has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"mode": mode, "steps": steps, "again": warm_up_steps}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # The process has ended; `receive` raises the reason.
            pass
        return self.receive()

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
