"""Event files for TensorBoard, in `tensorboard/` of the run directory.

Scalars stand under the tags of `scalars`; the custom scalars page shows training and validation of a metric in one
chart. The configuration is a text, and the final metrics are those of the run on the page of hyperparameters.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ple_rec.config.load import dump_toml
from ple_rec.config.run import RunConfig
from ple_rec.errors import UserError, settings
from ple_rec.training.loggers.base import Ending, Record, TimedRecord, final_scalars, flat, scalars

_PREFIX = "events.out.tfevents."


def installed() -> bool:
    """Whether tensorboard is there and can be imported."""
    if find_spec("tensorboard") is None:
        return False
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception:  # a broken installation may fail by more than ImportError
        return False
    return True


def check_installed(wanted: bool | None) -> None:
    """Refuse `watch.tensorboard = true` where it cannot be had.

    Raises:
        UserError: it cannot be imported.
    """
    if wanted and not installed():
        raise UserError(
            "watch.tensorboard",
            "got true, but tensorboard cannot be imported",
            "it writes the event files",
            f"install it (pip install tensorboard), or take the key back by {settings('watch.tensorboard=')}",
        )


class TensorBoard:
    """Writes one event file per start of the run; none where it ends before its first record.

    Args:
        directory: Folder of the files.
        config: Configuration of the run.
        place: Name of the folder for people; that of a run in a store is pushed to an address.

    Written by tensorboard's record writer rather than torch's `SummaryWriter`: this has a thread already, and the
    other's thread would print a traceback where the disk is full.
    """

    name = "tensorboard"
    recovery = "train.jsonl and metrics.json have it all"

    def __init__(self, directory: Path, config: RunConfig, place: str) -> None:
        self.directory, self.config, self.place = directory, config, place
        self._begun: tuple[int, Sequence[Record]] = 0, ()
        self._writer: Any = None
        self._tags: set[str] = set()
        self._laid_out = False

    def begin(self, step: int, past: Sequence[Record]) -> None:
        """What earlier files say of steps after `step` is superseded."""
        self._begun = step, past

    def _start(self) -> None:
        """Open a new file, unless it is open."""
        if self._writer is not None:
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from torch.utils.tensorboard import summary

        step, past = self._begun
        earlier = sorted(file.name for file in self.directory.glob(_PREFIX + "*"))
        self._writer = _open(self.directory, earlier)
        now = time.time()
        self._write(Event(file_version="brain.Event:2"), now)
        if earlier:
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)), now)
        text = "\n".join(f"    {line}" for line in dump_toml(self.config).splitlines())  # indented: code in Markdown
        self._write(Event(step=step, summary=summary.text("config", text)), now)
        self.log([] if earlier else [TimedRecord(now, record) for record in past])

    def log(self, records: Sequence[TimedRecord]) -> None:
        """Write the records, and flush: a killed run has lost none."""
        self._start()
        for moment, record in records:
            values = scalars(record)
            self._scalars(values, record["step"], moment)
            self._tags |= values.keys()
            if record["split"] == "valid" and not self._laid_out:
                self._lay_out(record, moment)
        self._writer.flush()

    def end(self, ending: Ending) -> None:
        """Write results, and close."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import summary

        if ending.metrics:
            self._start()
            values = final_scalars(ending.metrics)
            # One step beyond the last, so that a run that goes on from there supersedes them.
            step = ending.metrics["steps"] + 1
            for part in summary.hparams(flat(self.config), values):
                self._write(Event(step=step, summary=part), ending.time)
            self._scalars(values, step, ending.time)
        if self._writer is not None:
            self._writer.close()

    def _lay_out(self, record: Record, moment: float) -> None:
        """Charts that show a metric of training and of validation together."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import summary

        self._laid_out = True
        charts = {"all tasks": {"loss": ["Multiline", ["(train|valid)/loss$"]]}}
        for task, values in record["tasks"].items():
            shared = [key for key in values if f"train/{task}/{key}" in self._tags]
            if shared:
                charts[task] = {key: ["Multiline", [f"(train|valid)/{task}/{key}$"]] for key in shared}
        self._write(Event(step=record["step"], summary=summary.custom_scalars(charts)), moment)

    def _scalars(self, values: dict[str, float], step: int, moment: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=points)), moment)

    def _write(self, event: Any, moment: float) -> None:
        event.wall_time = moment
        self._writer.write(event.SerializeToString())


def _open(directory: Path, earlier: Sequence[str]) -> Any:
    """A writer of a new file whose name sorts after the earlier ones: TensorBoard reads them in that order."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    directory.mkdir(parents=True, exist_ok=True)
    seconds = max([int(time.time()), *(_seconds(name) + 1 for name in earlier)])
    file = directory / f"{_PREFIX}{seconds:010d}.{socket.gethostname()}.{os.getpid()}.0"
    return RecordWriter(file.open("xb"))


def _seconds(name: str) -> int:
    digits = name.removeprefix(_PREFIX).partition(".")[0]
    return int(digits) if digits.isdigit() else 0
