"""Folder of a chain of days: its datasets, runs and records. They are the whole state of the chain.

    datasets/first/         the dataset of the configuration itself, the root of the chain
    datasets/2024-05-09/    the dataset of a day, appended to the one before it
    runs/2024-05-09/        the run that was trained on it
    records/2024-05-09.json what became of it
    daily.lock              held while a day is in work

A day is open until its record says that it was published or refused. The same command goes on with an open day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from ple_rec.config.load import load_schema
from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.days.record import DayRecord, read_record
from ple_rec.errors import DataError, Option, UserError
from ple_rec.runs.directory import hold_prefix
from ple_rec.storage import Location, Remote, explain_errors, make_directory, names_in
from ple_rec.storage.locks import NoLocksError, open_locked

FIRST = "first"
LOCK = "daily.lock"
_DAY_NAME = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class PreparedDay:
    """Day of a chain whose dataset is complete.

    Args:
        name: Name of its folders: its date, or `first`.
        day: Its date, which is the last training day of the dataset.
        fingerprint: Fingerprint of the dataset.
        lineage: Fingerprints of the dataset and of its ancestors, the nearest first.
    """

    name: str
    day: date
    fingerprint: str
    lineage: tuple[str, ...]


class Chain:
    """Chain of days in a folder.

    Args:
        folder: Folder or address of the chain.
    """

    def __init__(self, folder: Location) -> None:
        self.folder = folder

    def dataset(self, name: str) -> Location:
        """Return the directory of a day's dataset."""
        return self.folder / "datasets" / name

    def run(self, name: str) -> Location:
        """Return the directory of a day's run."""
        return self.folder / "runs" / name

    def record_file(self, name: str) -> Location:
        """Return the file of a day's record."""
        return self.folder / "records" / f"{name}.json"

    def record(self, name: str) -> DayRecord | None:
        """Return the record of a day; None if it has none.

        Raises:
            DataError: The file is damaged.
        """
        return read_record(self.record_file(name))

    def is_open(self, name: str) -> bool:
        """Return True if the day was neither published nor refused. An accepted day is still to be published."""
        record = self.record(name)
        return record is None or record.verdict == "accepted"

    def folder_names(self) -> set[str]:
        """Return the names of the days that have a folder of a dataset or of a run, complete or not."""
        names: set[str] = set()
        for folder in (self.folder / "datasets", self.folder / "runs"):
            with explain_errors(folder, "listed", "the datasets and runs of the chain lie there"):
                names.update(name for name in names_in(folder) if name == FIRST or _DAY_NAME.fullmatch(name))
        return names

    @cached_property
    def days(self) -> tuple[PreparedDay, ...]:
        """Days with a complete dataset, the oldest first.

        Raises:
            DataError: A dataset does not continue the one before it, or is damaged.
        """
        folder = self.folder / "datasets"
        with explain_errors(folder, "listed", "the datasets of the chain lie there"):
            names = [name for name in names_in(folder) if name == FIRST or _DAY_NAME.fullmatch(name)]
            names = [name for name in names if (folder / name / SUCCESS_FILE).is_file()]
        days = sorted((self.read_day(name) for name in names), key=lambda each: each.day)
        for before, after in pairwise(days):
            if before.fingerprint not in after.lineage:
                raise DataError(
                    str(self.dataset(after.name)),
                    f"is not appended to {self.dataset(before.name)} ({before.fingerprint[:12]})",
                    "the datasets of a chain continue one another, so that ids keep their rows",
                    "move away the dataset that does not belong to the chain, or begin a chain in another folder",
                )
        return tuple(days)

    def read_day(self, name: str) -> PreparedDay:
        """Return a day from its complete dataset.

        Raises:
            DataError: The dataset is damaged.
            UserError: The dataset is not split by day.
        """
        schema = load_schema(self.dataset(name))
        if schema.day is None:
            raise UserError(
                str(self.dataset(name)),
                "has no last training day",
                'a chain of days needs a dataset whose split is by = "day"',
                "split by day in the configuration of the preparation, and prepare it again",
            )
        return PreparedDay(name, date.fromisoformat(schema.day), schema.fingerprint, schema.lineage())

    def days_before(self, name: str) -> tuple[PreparedDay, ...]:
        """Return the days before another one, which need not be prepared, the oldest first."""
        return () if name == FIRST else tuple(each for each in self.days if each.day < date.fromisoformat(name))

    def before(self, name: str) -> PreparedDay | None:
        """Return the newest day before another one; None for the first day."""
        return next(reversed(self.days_before(name)), None)

    def find(self, fingerprint: str) -> PreparedDay | None:
        """Return the day whose dataset has a fingerprint; None if no day has it."""
        return next((each for each in self.days if each.fingerprint == fingerprint), None)


def choose_day(chain: Chain, requested: date | None, missing: Set[date]) -> str:
    """Return the name of the day to work on.

    Without a request it is the newest day if that is open, else the day after it.

    Args:
        chain: Chain of days.
        requested: Day that the caller asks for; None for the next one.
        missing: Days that the log does not have.

    Raises:
        UserError: The chain has not begun, the requested day lies before its newest day, or days between are missing.
    """
    if not chain.days:
        if requested is None:
            return FIRST
        raise UserError(
            f"{Option.DAY} {requested}",
            f"{chain.folder} has no days yet",
            "the first days are those of the preparation's configuration",
            f"leave {Option.DAY} out once; later days are appended to them",
        )
    newest = chain.days[-1]
    if requested is None:
        if chain.is_open(newest.name):
            return newest.name
        day = newest.day + timedelta(1)
        while day in missing:
            day += timedelta(1)
        return day.isoformat()
    for each in chain.days:
        if each.day == requested:
            return each.name
    if requested < newest.day:
        # The dataset of an old day may have been removed, but its record stays. The first day is found by its record.
        for name in (requested.isoformat(), FIRST):
            record = chain.record(name)
            if record is not None and record.day == requested.isoformat():
                return name
        raise UserError(
            f"{Option.DAY} {requested}",
            f"is before {newest.day}, the last day of {chain.folder}",
            "days are appended in order, and each once",
            f"name a day after {newest.day}, or leave {Option.DAY} out",
        )
    count = (requested - newest.day).days
    between = [day for day in (newest.day + timedelta(i) for i in range(1, count)) if day not in missing]
    if between:
        listed = ", ".join(map(str, between[:3])) + (f" and {len(between) - 3} more" if len(between) > 3 else "")
        raise UserError(
            f"{Option.DAY} {requested}",
            f"{listed} {'is' if len(between) == 1 else 'are'} missing between {newest.day} and this day",
            "days are appended in order; a day that is passed over cannot be added later",
            f"run {Option.DAY.with_value(str(between[0]))} first, or declare days that the log does not have: "
            f"missing_days = {[str(day) for day in between[:3]]}".replace("'", '"'),
        )
    return requested.isoformat()


@contextmanager
def hold_chain(folder: Location) -> Iterator[None]:
    """Hold a chain during the block, so that no other process works on its days.

    Raises:
        UserError: Another process holds it, or the folder cannot be created or locked.
    """
    if isinstance(folder, Remote):
        with hold_prefix(folder):
            yield
        return
    with _locked_file(folder):
        yield


@contextmanager
def _locked_file(folder: Path) -> Iterator[None]:
    rule = "one process at a time works on the days of a chain"
    try:
        make_directory(folder)
        lock = open_locked(folder / LOCK)
    except NoLocksError as error:
        fix = "put the chain on a file system with locks"
        raise UserError(str(folder), f"cannot be locked ({error.strerror})", rule, fix) from error
    except OSError as error:
        fix = "name a folder that can be written"
        raise UserError(str(folder), f"cannot be created ({error.strerror})", "a chain lies there", fix) from error
    if lock is None:
        fix = "wait for it; it publishes the day, or the next call goes on with it"
        raise UserError(str(folder), "is in use by another process", rule, fix)
    with lock:
        yield
