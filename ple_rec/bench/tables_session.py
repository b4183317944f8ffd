"""The ranks of a size, as the process sees them that measures: started as training starts them, they wait for turns."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ple_rec.bench.tables_plan import AGAIN, Plan, configuration
from ple_rec.bench.tables_rank import Order
from ple_rec.config.load import dump_toml
from ple_rec.errors import PleRecError

_POLL_SECONDS = 0.01
_LOG_TAIL = 2000  # characters of the ranks' output that a failure shows


class Session:
    """Ranks under torchrun; a context manager that ends them.

    Args:
        plan: Of the size.
        data: A dataset directory.
        folder: For files that it exchanges with the ranks; new.

    Raises:
        PleRecError: by every method, where a rank failed; what it raised itself, if that is a `PleRecError`.
    """

    def __init__(self, plan: Plan, data: Path, folder: Path) -> None:
        self.plan = plan
        folder.mkdir()
        config = folder / "config.toml"
        config.write_text(dump_toml(configuration(data, plan)), encoding="utf-8")
        self._log = folder / "log.txt"
        self._turn = 0
        self.order = Order(
            config=str(config),
            folder=str(folder),
            launched=time.monotonic(),
            parent=os.getpid(),
            warm_up=plan.warm_up,
            again=AGAIN,
            steps=plan.steps,
            lookups=plan.lookups,
        )
        self.order.write()
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(plan.ranks)]
        ranks = ["-m", "ple_rec.bench.tables_rank", str(self.order.path)]
        with self._log.open("w") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-m", *launcher, *ranks], stdout=log, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        if self._agent.poll() is None:
            self._agent.terminate()  # it ends its ranks
        self._agent.wait()

    def warm_up(self) -> None:
        """Wait until all ranks have made their first steps."""
        self._wait(self._through)

    def turn(self) -> None:
        """Let all ranks make the steps of a turn, and wait."""
        self._turn += 1
        self.order.begin(self._turn).touch()
        self._wait(self._through)

    def finish(self) -> list[dict[str, Any]]:
        """Let the ranks end; what each of them measured."""
        self.order.finish.touch()
        self._wait(lambda: self._agent.poll() is not None)
        return [json.loads(self.order.record(rank).read_text(encoding="utf-8")) for rank in range(self.plan.ranks)]

    def _through(self) -> bool:
        return all(self.order.done(rank, self._turn).exists() for rank in range(self.plan.ranks))

    def _wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if self._agent.poll() is not None:
                break
            time.sleep(_POLL_SECONDS)
        if self._agent.poll() or (self._agent.poll() == 0 and not ready()):
            raise self._failure()

    def _failure(self) -> PleRecError:
        """The error of the first rank that left one, else what the ranks said before the agent spoke of them."""
        for rank in range(self.plan.ranks):
            if (file := self.order.error(rank)).exists():
                error = pickle.loads(file.read_bytes())
                assert isinstance(error, PleRecError)
                return error
        said = self._log.read_text(errors="replace").split("torch/distributed/elastic/")[0]
        return PleRecError(
            str(self.plan),
            f"its ranks ended with exit code {self._agent.returncode}",
            f"they said:\n{said[-_LOG_TAIL:].strip()}\n",
            "see there; one that was killed without a word wanted more memory than there is",
        )
