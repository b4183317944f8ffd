"""What a watcher is, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Record = Mapping[str, Any]  # of `train.jsonl`


class TimedRecord(NamedTuple):
    """A record and when it was made, in seconds since 1970."""

    time: float
    record: Record


class Ending(NamedTuple):
    """How a run ended.

    Args:
        time: When, in seconds since 1970.
        status: "finished" with results, "failed" by an error, "stopped" by a person, or "preempted" by a scheduler.
        metrics: What `metrics.json` holds; empty without results.
        files: Texts worth keeping with the results, by the names that they have in the run directory.
    """

    time: float
    status: Literal["finished", "failed", "stopped", "preempted"]
    metrics: Mapping[str, Any] = {}
    files: Mapping[str, str] = {}


class UnavailableError(Exception):
    """What a watcher writes to does not answer now; the same call may succeed later."""


class Watcher(Protocol):
    """Hears what a run reports, on rank 0 and on a thread of its own (`Background`), so that each call may take long.

    A call that raises `UnavailableError` is made again with the same arguments, so it may be done twice; one that
    raises anything else is not. Neither reaches the training.
    """

    @property
    def name(self) -> str:
        """In messages."""

    @property
    def recovery(self) -> str:
        """Where what it missed is found, or how it gets it."""

    @property
    def place(self) -> str:
        """Where a person finds what it keeps."""

    def begin(self, step: int, past: Sequence[Record]) -> None:
        """The run starts after `step` steps; `past` is what `train.jsonl` says of them."""

    def hear(self, heard: Sequence[TimedRecord]) -> None:
        """Take new records, the oldest first."""

    def end(self, ending: Ending) -> None:
        """The last call."""
