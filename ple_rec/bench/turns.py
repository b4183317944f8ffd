"""How ranks that wait in memory are told to work by turns: by files of a folder that they share with who measures.

What waits sleeps, so that others have the processor.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.errors import PleRecError
from ple_rec.exits import end_with_agent, under_agent
from ple_rec.parallel.process_group import Ranks, process_group

POLL_SECONDS = 0.01
AGAIN = 5  # steps at the start of a turn that do not count: more than the loader reads ahead while a rank waits


@dataclass(frozen=True)
class Order:
    """What a rank is to do; files of `folder` say when.

    Args:
        config: Path of the run's configuration.
        folder: Of the files.
        launched: When the launcher was started, on `time.monotonic`'s clock, which all processes of a host share.
        parent: The process that measures; a rank ends once it is gone.
        sizes: Numbers of steps and the like, by what the rank calls them.
    """

    config: str
    folder: str
    launched: float
    parent: int
    sizes: Mapping[str, int]

    @property
    def path(self) -> Path:
        """Of itself, as JSON."""
        return Path(self.folder) / "order.json"

    def begin(self, turn: int) -> Path:
        """A file that is there once turn 1, 2, ... may begin, and says what it is of; turn 0 begins by itself."""
        return Path(self.folder) / f"begin-{turn}"

    @property
    def finish(self) -> Path:
        """A file that is there once no other turn comes."""
        return Path(self.folder) / "finish"

    def done(self, rank: int, turn: int) -> Path:
        """A file that is there once a rank is through with a turn: what it saw in it, as JSON."""
        return Path(self.folder) / f"rank-{rank}.done-{turn}"

    def record(self, rank: int) -> Path:
        """What a rank has measured, at the end."""
        return Path(self.folder) / f"rank-{rank}.json"

    def error(self, rank: int) -> Path:
        """The error that ended a rank, pickled."""
        return Path(self.folder) / f"rank-{rank}.error"

    def write(self) -> None:
        """To `path`."""
        self.path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Order:
        """The inverse of `write`."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def next_turn(self, rank: int, turn: int, saw: object = None) -> str | None:
        """Say that `turn` is over and what the rank saw in it, and wait.

        Returns:
            What the next turn is of; None where no other comes.

        Raises:
            RuntimeError: the process that measures is gone.
        """
        put(self.done(rank, turn), json.dumps(saw))
        begin = self.begin(turn + 1)
        while not begin.exists():
            if self.finish.exists():
                return None
            if not Path(f"/proc/{self.parent}").exists():
                raise RuntimeError("the process that measures is gone")
            time.sleep(POLL_SECONDS)
        return begin.read_text(encoding="utf-8")


def put(path: Path, text: str) -> None:
    """Write a file that is whole once it is there."""
    half = path.with_name(f"{path.name}.half")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def rank_main(measure: Callable[[RunConfig, Ranks, Order], dict[str, Any]]) -> int:
    """The whole life of a rank: `measure` gives what it leaves behind.

    torchrun ... -m MODULE ORDER.json, or, as a single rank, without torchrun.
    """
    if under_agent():
        end_with_agent()
    order = Order.read(Path(sys.argv[1]))
    config = load_config(RunConfig, order.config)
    with process_group(config.runtime) as ranks:
        try:
            record = measure(config, ranks, order)
        except PleRecError as error:
            order.error(ranks.rank).write_bytes(pickle.dumps(error))
            raise
    order.record(ranks.rank).write_text(json.dumps(record), encoding="utf-8")
    return 0
