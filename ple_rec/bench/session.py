"""Ranks as the process sees them that measures: started as training starts them, they wait for turns."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ple_rec.bench.turns import POLL_SECONDS, Order, put
from ple_rec.config.load import dump_toml
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError

_LOG_TAIL = 2000  # characters of the ranks' output that a failure shows


class Session:
    """Ranks of a host; a context manager that ends them.

    Args:
        title: For people.
        module: That a rank runs; its main is `turns.rank_main`.
        config: Of the run.
        ranks: How many.
        folder: For files that it exchanges with the ranks; new.
        sizes: As of `Order`.
        launcher: Whether torchrun starts them; else a single rank starts as `ple-rec train` does.

    Raises:
        PleRecError: by every method, where a rank failed; what it raised itself, if that is a `PleRecError`.
    """

    def __init__(
        self,
        title: str,
        module: str,
        config: RunConfig,
        ranks: int,
        folder: Path,
        sizes: Mapping[str, int],
        *,
        launcher: bool = True,
    ) -> None:
        self.title, self.ranks = title, ranks
        folder.mkdir()
        file = folder / "config.toml"
        file.write_text(dump_toml(config), encoding="utf-8")
        self._log = folder / "log.txt"
        self._turn = 0
        self.order = Order(str(file), str(folder), time.monotonic(), os.getpid(), sizes)
        self.order.write()
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [*(torchrun if launcher else []), "-m", module, str(self.order.path)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()  # torchrun ends its ranks
        self._process.wait()

    def warm_up(self) -> None:
        """Wait until all ranks have made their first steps."""
        self._wait(self._through)

    def turn(self, what: str = "") -> list[Any]:
        """Let all ranks do a turn, and wait; what each of them saw in it."""
        self._turn += 1
        put(self.order.begin(self._turn), what)
        self._wait(self._through)
        done = [self.order.done(rank, self._turn) for rank in range(self.ranks)]
        return [json.loads(file.read_text(encoding="utf-8")) for file in done]

    def finish(self) -> list[dict[str, Any]]:
        """Let the ranks end; what each of them measured."""
        self.order.finish.touch()
        self._wait(lambda: self._process.poll() is not None)
        return [json.loads(self.order.record(rank).read_text(encoding="utf-8")) for rank in range(self.ranks)]

    def _through(self) -> bool:
        return all(self.order.done(rank, self._turn).exists() for rank in range(self.ranks))

    def _wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if self._process.poll() is not None:
                break
            time.sleep(POLL_SECONDS)
        if self._process.poll() or (self._process.poll() == 0 and not ready()):
            raise self._failure()

    def _failure(self) -> PleRecError:
        """The error of the first rank that left one, else what the ranks said before the agent spoke of them."""
        for rank in range(self.ranks):
            if (file := self.order.error(rank)).exists():
                error = pickle.loads(file.read_bytes())
                assert isinstance(error, PleRecError)
                return error
        said = self._log.read_text(errors="replace").split("torch/distributed/elastic/")[0]
        return PleRecError(
            self.title,
            f"its ranks ended with exit code {self._process.returncode}",
            f"they said:\n{said[-_LOG_TAIL:].strip()}\n",
            "see there; one that was killed without a word wanted more memory than there is",
        )
