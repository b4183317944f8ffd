"""The driver's side of a contender: its process, its orders, what it answers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ple_rec.errors import PleRecError

_PATIENCE_SECONDS = 20.0
_SHOWN = 8  # lines of the log


@dataclass(frozen=True)
class Contender:
    """One way to train the workload.

    Args:
        name: Of it on the command line.
        title: For people.
        command: That starts it, without the file of the workload.
        table_copies: How many times the tables are in memory at most: weights, gradients, states, temporaries.
        library: Whether it is one that a user would leave for us.
        ours: Whether it is ours.
        after: Words of its command that follow the file of the workload.
    """

    name: str
    title: str
    command: Sequence[str]
    table_copies: float
    library: bool = False
    ours: bool = False
    after: Sequence[str] = ()


class Child:
    """The process of a contender, which waits between its turns.

    Args:
        contender: Which.
        workload: File of the workload.
        log: File of what it prints.
        threads: That its libraries may start.
        root: Where the commands of all contenders run.
    """

    def __init__(self, contender: Contender, workload: Path, log: Path, threads: int, root: Path) -> None:
        self.contender, self.log = contender, log
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*contender.command, str(workload), *contender.after],
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
        self._process.stdin.close()  # it ends when it asks what is next
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
        """What it says next.

        Raises:
            PleRecError: it tells an error, or has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        if "error" in answer or not line:
            raise PleRecError(
                self.contender.name,
                answer.get("error") or f"its process ended with {self._process.wait()}\n{self._tail()}",
                "a contender answers every order",
                f"look into {self.log}, or leave it out by --contenders",
            )
        return answer

    def run(self, mode: str, steps: int, again: int) -> dict[str, Any]:
        """A turn: `samples`, `seconds`, `peak_bytes`; raises as `receive`.

        Args:
            mode: Which of the ways that it has named.
            steps: That count.
            again: Steps before them that do not.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"mode": mode, "steps": steps, "again": again}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and `receive` says why
        return self.receive()

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:])
