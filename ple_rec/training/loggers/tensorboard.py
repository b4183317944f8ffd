"""Logger to event files of TensorBoard, in `tensorboard/` of the run directory.

Scalars have the tags of `record_scalars`. The page "custom scalars" shows training and validation of a metric in one
chart, the page "text" has the configuration, and the page "hparams" has the final metrics of the run.
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
from ple_rec.errors import UserError, overrides_text
from ple_rec.training.loggers.base import Ending, Record, TimedRecord, final_scalars, flatten_config, record_scalars

_PREFIX = "events.out.tfevents."


def is_installed() -> bool:
    """Return True if tensorboard is installed and can be imported."""
    if find_spec("tensorboard") is None:
        return False
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception:  # A broken installation may raise more than ImportError.
        return False
    return True


def check_installed(required: bool | None) -> None:
    """Refuse `watch.tensorboard = true` if tensorboard cannot be imported.

    Args:
        required: `watch.tensorboard`: True if the logger is required; None to use it if it is installed.

    Raises:
        UserError: It is required and cannot be imported.
    """
    if required and not is_installed():
        raise UserError(
            "watch.tensorboard",
            "got true, but tensorboard cannot be imported",
            "tensorboard writes the event files",
            f"install it (pip install tensorboard), or unset the key by {overrides_text('watch.tensorboard=')}",
        )


class TensorBoard:
    """Writer of one event file for each start of the run; it writes none if the run ends before its first record.

    It uses tensorboard's record writer. Torch's `SummaryWriter` would start a second thread, which prints a traceback
    if the disk is full.

    Args:
        directory: Folder of the files.
        config: Configuration of the run.
        place: Path of the folder in messages; or the address in an object store to which the folder is copied.
    """

    name = "tensorboard"
    recovery = "train.jsonl and metrics.json hold all records"

    def __init__(self, directory: Path, config: RunConfig, place: str) -> None:
        self.directory, self.config, self.place = directory, config, place
        self._step = 0
        self._past: Sequence[Record] = ()
        self._writer: Any = None
        self._tags: set[str] = set()
        self._has_layout = False

    def begin(self, step: int, past_records: Sequence[Record]) -> None:
        """Keep the number of steps done and the past records of the run until the first new record is written."""
        self._step, self._past = step, past_records

    def _start(self) -> None:
        """Open a new file if none is open, and write the configuration; the run's first file also gets past records."""
        if self._writer is not None:
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from torch.utils.tensorboard import summary

        step, past = self._step, self._past
        earlier = sorted(file.name for file in self.directory.glob(_PREFIX + "*"))
        self._writer = _open(self.directory, earlier)
        now = time.time()
        self._write(Event(file_version="brain.Event:2"), now)
        if earlier:
            # This event makes TensorBoard ignore the later steps of earlier files.
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)), now)
        # Indented lines are code in Markdown.
        text = "\n".join(f"    {line}" for line in dump_toml(self.config).splitlines())
        self._write(Event(step=step, summary=summary.text("config", text)), now)
        self.log([] if earlier else [TimedRecord(now, record) for record in past])

    def log(self, records: Sequence[TimedRecord]) -> None:
        """Write the records and flush the file, so that a killed run loses none of them."""
        self._start()
        for moment, record in records:
            values = record_scalars(record)
            self._write_scalars(values, record["step"], moment)
            self._tags |= values.keys()
            if record["split"] == "valid" and not self._has_layout:
                self._write_layout(record, moment)
        self._writer.flush()

    def end(self, ending: Ending) -> None:
        """Write the results, and close the file."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import summary

        if ending.metrics:
            self._start()
            values = final_scalars(ending.metrics)
            # If the finished run is resumed, its new file supersedes all steps after the last one. The results stand at
            # the step after the last, so that they are superseded, too, and not shown twice.
            step = ending.metrics["steps"] + 1
            for part in summary.hparams(flatten_config(self.config), values):
                self._write(Event(step=step, summary=part), ending.time)
            self._write_scalars(values, step, ending.time)
        if self._writer is not None:
            self._writer.close()

    def _write_layout(self, record: Record, moment: float) -> None:
        """Write the layout of charts that show a metric of training and of validation together."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard import summary

        self._has_layout = True
        charts = {"all tasks": {"loss": ["Multiline", ["(train|valid)/loss$"]]}}
        for task, values in record["tasks"].items():
            shared = [key for key in values if f"train/{task}/{key}" in self._tags]
            if shared:
                charts[task] = {key: ["Multiline", [f"(train|valid)/{task}/{key}$"]] for key in shared}
        self._write(Event(step=record["step"], summary=summary.custom_scalars(charts)), moment)

    def _write_scalars(self, values: dict[str, float], step: int, moment: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=points)), moment)

    def _write(self, event: Any, moment: float) -> None:
        event.wall_time = moment
        self._writer.write(event.SerializeToString())


def _open(directory: Path, earlier: Sequence[str]) -> Any:
    """Return a writer of a new file whose name sorts after the earlier ones, since TensorBoard reads them in order."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    directory.mkdir(parents=True, exist_ok=True)
    seconds = max([int(time.time()), *(_seconds(name) + 1 for name in earlier)])
    file = directory / f"{_PREFIX}{seconds:010d}.{socket.gethostname()}.{os.getpid()}.0"
    return RecordWriter(file.open("xb"))


def _seconds(name: str) -> int:
    """Return the time in the name of an event file, in seconds since 1970; 0 if it has none."""
    digits = name.removeprefix(_PREFIX).partition(".")[0]
    return int(digits) if digits.isdigit() else 0
