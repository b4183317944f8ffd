"""Errors that a user can meet, each with an exit code and a message of four parts: place, value, rule, fix.

The command line and the Python API name an option by different words (`--run-dir`, `run_dir`), and the code that raises
an error does not know which of them the user has written. So a message holds both words, between null characters;
`as_flags` and `as_arguments` pick one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum
from typing import Self

_BOTH_WORDS = re.compile("\0(--[^\0]+)\0([^\0]+)\0")


def as_flags(text: str) -> str:
    """Return a message in which each option is a flag of the command line: `pass --overwrite`."""
    return _escape_nulls(_BOTH_WORDS.sub(r"\1", text))


def as_arguments(text: str) -> str:
    """Return a message in which each option is an argument of the API: `pass overwrite=True`."""
    return _escape_nulls(_BOTH_WORDS.sub(r"\2", text))


def _escape_nulls(text: str) -> str:
    """Return a text with an escape for each null character, so that one in a path does not pass for an option."""
    return text.replace("\0", r"\x00")


class Option(Enum):
    """Option that a message can name, as in `f"give another {Option.OUT}"`: its flag and its argument in the API."""

    ALL_ROWS = "--all-rows", "all_rows=True"
    APPEND = "--append", "append"
    AUC_LOSS = "--auc-loss", "auc_loss"
    AUTO_RESUME = "--auto-resume", 'resume="auto"'
    CALIBRATION = "--calibration", "calibration"
    CONFIG = "--config", "config"
    DATA = "--data", "data"
    DATASET = "--dataset", "dataset"
    DAY = "--day", "day"
    DELTA = "--delta", "delta"
    DELTA_SHARE = "--delta-share", "delta_share"
    DENSE = "--dense", "dense"
    DEVICE = "--device", "device"
    ENGINE = "--engine", "engine"
    FUSION = "--fusion", "fusion"
    HOSTS = "--hosts", "hosts"
    IDS = "--ids", "ids"
    INIT_FROM = "--init-from", "init_from"
    MASTER = "--master", "master"
    MEMORY = "--memory", "memory"
    NEW_CHAIN = "--new-chain", "new_chain=True"
    ONNX = "--onnx", "onnx=True"
    OUT = "--out", "out"
    OVERRIDES = "--set", "overrides"
    OVERWRITE = "--overwrite", "overwrite=True"
    PARENT = "--parent", "parent"
    PRECISION = "--precision", "precision"
    PROFILE = "--profile", "profile=True"
    RESUME = "--resume", "resume=True"
    REUSE = "--reuse", "reuse"
    ROWS = "--rows", "rows"
    RUN_DIR = "--run-dir", "run_dir"
    RUNS = "--runs", "runs"
    SOURCE = "--from", "source"
    SPLIT = "--split", "split"
    SQUASH = "--squash", "version"
    TABLES = "--tables", "tables"
    THREADS = "--threads", "threads"
    TOLERANCE = "--tolerance", "tolerance"
    USER_FEATURES = "--user-features", "user_features"
    VARIANTS = "--variants", "variants"
    VERSION = "--version", "version"

    def __str__(self) -> str:
        flag, argument = self.value
        return f"\0{flag}\0{argument}\0"

    def with_value(self, value: str | float, *, quoted: bool = False) -> str:
        """Return text for a message, which reads `--append day=9` as a flag and `append="day=9"` as an argument.

        Args:
            value: Value of the option.
            quoted: True to quote the value on the command line too, because it may hold spaces.
        """
        flag, argument = self.value
        text = _escape_nulls(value) if isinstance(value, str) else f"{value:g}"
        literal = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else text
        return f"\0{flag} {literal if quoted else text}\0{argument}={literal}\0"


def overrides_text(*changes: str) -> str:
    """Return text for a message, which reads `--set a=1` as flags and `overrides=["a=1"]` as an argument."""
    flags = " ".join(f"--set {_escape_nulls(change)}" for change in changes)
    return f"\0{flags}\0overrides={json.dumps(changes, ensure_ascii=False)}\0"


class PleRecError(Exception):
    """Error whose cause lies outside the program. `ple-rec` prints it without a traceback and ends with `exit_code`.

    The message reads `place: value; rule. Fix: fix`, for example
    `data/census: no _SUCCESS file; a dataset directory without it is incomplete. Fix: run ...`. `str` names options by
    their flags.

    Args:
        place: Place of the fault: a file, a row group, a configuration key, a column.
        value: Wrong value at that place.
        rule: Rule that the value breaks, with its reason if that is not obvious.
        fix: Advice to the user.
    """

    exit_code = 1

    def __init__(self, place: str | Option, value: str, rule: str, fix: str) -> None:
        super().__init__(str(place), value, rule, fix)  # Unpickling, as in another process, calls it with these.
        self.place, self.value, self.rule, self.fix = str(place), value, rule, fix

    def __str__(self) -> str:
        return as_flags(f"{self.place}: {self.value}; {self.rule}. Fix: {self.fix}")

    def reworded(self, change: Callable[[str], str]) -> Self:
        """Return a copy of the error, with its traceback, in which `change` has rewritten each of the four parts.

        Args:
            change: Function from the text of a part to its new text.
        """
        parts = map(change, (self.place, self.value, self.rule, self.fix))
        return type(self)(*parts).with_traceback(self.__traceback__)


class UserError(PleRecError):
    """Wrong input of the user: configuration, flags, paths, installation."""

    exit_code = 2


class DeltaTooLargeError(UserError):
    """More rows of a model have changed than a delta may have; a whole version is exported instead."""


class UnavailableError(UserError):
    """A file or an object store cannot be read or written now; a later attempt may succeed."""


class DataError(PleRecError):
    """Data that breaks a rule: a label outside {0, 1}, an id outside its table, a damaged file."""

    exit_code = 3


class PreemptedError(PleRecError):
    """A run was asked to stop, and has saved its state if there was time; the same command resumes it."""

    exit_code = 75


class DivergedError(PleRecError):
    """The loss or a gradient of a run is not finite."""

    exit_code = 4
