"""Logs, configurations and options that lead to a message of prep, and functions that apply the fix in it."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.run import Options, prepare
from ple_rec.errors import PleRecError
from tests.data_prep.plain_logs import DAY_ROWS, SIDE, TOML, Logs, day_of, with_column

DAYS = range(1, 5)
NAME, FILES, TIME = 'name = "plain"\n', 'files = ["log"]\n', '[time]\nvalue = "time_ms"\nunit = "ms"\n'
BY_DAY = '[split]\nby = "day"\ntrain = [1, 2]\nvalid = [3, 3]\ntest = [4, 4]\n'
BY_HASH = '[split]\nby = "hash"\nvalue = "time_ms"\nvalid = 0.2\ntest = 0.2\n'
BY_COLUMN = '[split]\nby = "column"\nvalue = "price"\n'
BY_DATE = BY_DAY.replace("[1, 2]", '["2022-04-15", "2022-04-16"]')
BY_DATE = BY_DATE.replace("[3, 3]", '["2022-04-17", "2022-04-17"]').replace("[4, 4]", '["2022-04-18", "2022-04-18"]')
DATED_SIDE = SIDE.replace('"user_id"}\n', '"user_id"}\nday = "seen"\n')
GROUP = 'group = "time_ms"\n'
# Each row is a group, so that an appended day has groups for all splits.
BASE = TOML.replace('group = "user_id"\n', GROUP)
BASE = BASE.replace("[checks]\n", "[append]\nvalid = 0.3\ntest = 0.3\n\n[checks]\n")
LABEL = 'label = "is_like"\n'


class Run:
    """Raw files, configuration and options, which a fix changes."""

    def __init__(self, root: Path, first_days: Path) -> None:
        self.logs, self.first_days = Logs(root, BASE), first_days
        self.options: dict[str, Any] = {}
        self.overrides: list[str] = []
        self.is_dry = True

    def edit(self, changes: Mapping[str, str]) -> None:
        """Replace texts of the configuration; an empty text is replaced at its end."""
        text = self.logs.toml.read_text()
        for old, new in changes.items():
            assert old in text, f"{old!r} is not in\n{text}"
            text = text.replace(old, new, 1) if old else text + new
        self.logs.toml.write_text(text)

    def message(self, caplog: pytest.LogCaptureFixture) -> str | None:
        """Return the refusal of prep, or a warning that proposes a fix; None if there is neither."""
        caplog.clear()
        source, toml = str(self.logs.raw), str(self.logs.toml)
        try:
            options = Options(source=source, threads=1, overrides=tuple(self.overrides), **self.options)
            options.check()
            if not self.is_dry or dry_run(toml, None, options).refused:  # A dry run does not show bad rows.
                prepare(toml, self.logs.out, options)
        except PleRecError as error:
            return str(error)
        return next((record.getMessage() for record in caplog.records if "Fix: " in record.getMessage()), None)


Raw = Callable[[Run], object]
Step = Mapping[str, str] | Raw | None


@dataclass(frozen=True)
class Case:
    """Logs and a configuration that lead to a message, and the steps that its fix describes.

    Args:
        fix: Text in the fix of the first message.
        toml: Texts of the configuration, and those that replace them.
        raw: Function that changes raw files or options; None to leave them as they are.
        steps: Changes that the fix describes; None for one that is read from the message. After each, prep is run.
    """

    fix: str
    toml: Mapping[str, str] = field(default_factory=dict)
    raw: Raw | None = None
    steps: tuple[Step, ...] = (None,)


def apply_text(run: Run, message: str) -> None:
    """Change configuration or options as the fix of a message says."""
    _, _, fix = message.rpartition("Fix: ")
    if assignment := re.search(r"([\w.\[\]]+) = (\"(?:[^\"\\]|\\.)*\")", fix):
        run.overrides.append(f"{assignment[1]}={assignment[2]}")
    elif name := re.search(r"did you mean ['`](.+?)['`]\?", fix):
        wrong = re.search(r"column '(.+?)'|nothing matches '(.+?)'|types\.(\w+):", message)
        assert wrong is not None, message
        text = run.logs.toml.read_text()
        run.logs.toml.write_text(re.sub(rf"\b{next(filter(None, wrong.groups()))}\b", name[1], text))
    elif day := re.search(r" (day=[\d-]+)$", fix):
        run.options["append"] = day[1]
    elif expression := re.match(r"write (cast\(.+?\)|'.+?')", fix):
        key = re.search(r"plain\.toml: ([\w.\[\]]+)", message)
        assert key is not None, message
        run.overrides.append(f"{key[1]}={json.dumps(expression[1])}")
    elif fix.startswith("add [time]"):
        run.edit({"": TIME})
    else:
        raise AssertionError(f"no change can be read from {fix!r}")


def carry(text: str) -> dict[str, str]:
    """Return the change that adds an expression which nothing else depends on."""
    return {"": f"[carry]\nextra = {json.dumps(text)}\n"}


def column(name: str, values: Callable[[int], Any], kind: pa.DataType | None = None) -> Raw:
    """Return a function that adds a column to all days; its values are those of a function of the row of a day."""

    def write(run: Run) -> None:
        for day in DAYS:
            table = day_of(day)
            array = pa.array([values(i) for i in range(table.num_rows)], kind)
            new = with_column(table, name, array) if name in table.column_names else table.append_column(name, array)
            run.logs.write(day, new)

    return write


def typed(value: object, kind: pa.DataType, readable: pa.DataType | None = None) -> Raw:
    """Return a function that adds a column of one value, which is cast to a readable type if there is one."""

    def write(run: Run) -> None:
        array = pa.array([value] * DAY_ROWS, kind)
        for day in DAYS:
            run.logs.write(day, day_of(day).append_column("extra", array if readable is None else array.cast(readable)))

    return write


def row(day: int, name: str, value: Any) -> Raw:
    """Return a function that changes one value of the log."""
    return lambda run: run.logs.spoil(day, name, {1: value})


def csv(change: Callable[[str], str], day: int = 1) -> Raw:
    """Return a function that writes the log as CSV, with another text of a day."""

    def write(run: Run) -> None:
        for each in DAYS:
            file = run.logs.file(each).with_suffix(".csv")
            pacsv.write_csv(day_of(each), file, pacsv.WriteOptions(quoting_style="none", quoting_header="none"))
            for other in (".parquet", ".txt"):
                run.logs.file(each).with_suffix(other).unlink(missing_ok=True)
            if each == day:
                file.write_text(change(file.read_text()))

    return write


def csv_without_header(run: Run) -> None:
    csv(str)(run)
    for file in (run.logs.raw / "log").iterdir():
        file.write_text(file.read_text().partition("\n")[2])


def cell(name: str, value: str, day: int = 1) -> Raw:
    """Return a function that writes the log as CSV, with another cell in the second row of a day."""

    def change(text: str) -> str:
        lines = [line.split(",") for line in text.splitlines()]
        lines[2][lines[0].index(name)] = value
        return "".join(",".join(cells) + "\n" for cells in lines)

    return csv(change, day)


def csv_with_empty_column(run: Run) -> None:
    csv(str)(run)
    for file in (run.logs.raw / "log").iterdir():
        first, *rest = file.read_text().splitlines()
        file.write_text("\n".join([f"{first},extra", *(f"{line}," for line in rest)]))


def users(*ids: Any, **columns: Any) -> Raw:
    """Return a function that writes the side table with a row for each id."""
    table = pa.table({"user_id": ids, "age": range(30, 30 + len(ids)), "seen": [date(2022, 4, 15)] * len(ids)})
    for name, values in columns.items():
        table = with_column(table, name, values)
    return lambda run: pq.write_table(table, run.logs.raw / "users.parquet")


def options(**values: Any) -> Raw:
    return lambda run: run.options.update(values)


def append(day: str | None = None, toml: Mapping[str, str] | None = None) -> Raw:
    """Return a function that appends a day to a dataset of the logs, prepared with other texts of the configuration."""

    def change(run: Run) -> None:
        parent = run.first_days
        if toml is not None:
            parent = run.logs.root / "first"
            text = run.logs.toml.read_text()
            run.edit(toml)
            prepare(str(run.logs.toml), parent, Options(source=str(run.logs.raw), threads=1, overwrite=True))
            run.logs.toml.write_text(text)
        run.options |= {"parent": parent} | ({} if day is None else {"append": day})

    return change


def rename(ending: str) -> Raw:
    def change(run: Run) -> None:
        for file in (run.logs.raw / "log").iterdir():
            file.rename(file.with_suffix(ending))

    return change


def named_parquet(run: Run) -> None:
    csv(str)(run)
    rename(".parquet")(run)


def packed(run: Run) -> None:
    csv(str)(run)
    for file in (run.logs.raw / "log").iterdir():
        file.write_bytes(gzip.compress(file.read_bytes()))


def packed_named_parquet(run: Run) -> None:
    packed(run)
    rename(".parquet")(run)


def csv_with_offsets(run: Run) -> None:
    """Write the log as CSV whose times have a UTC offset."""
    csv(str)(run)
    for file in (run.logs.raw / "log").iterdir():
        file.write_text(re.sub(r"\b165\d{10}\b|\b164\d{10}\b", _with_offset, file.read_text()))


def _with_offset(milliseconds: re.Match[str]) -> str:
    return datetime.fromtimestamp(int(milliseconds[0]) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S+08:00")


def without_dry_run(run: Run) -> None:
    """Run the whole preparation, which finds the row of an engine's error."""
    run.is_dry = False


def prepared(run: Run) -> None:
    run.is_dry = False
    run.logs.prepare()
    run.edit(carry("price"))


def both_formats(run: Run) -> None:
    for day in DAYS:
        pacsv.write_csv(day_of(day), run.logs.file(day).with_suffix(".csv"))


def folder_without_value(run: Run) -> None:
    """Move the log to a folder that names a value of a column, and copy a day to one that names none."""
    for folder, days in (("extra=1", DAYS), ("extra=__HIVE_DEFAULT_PARTITION__", [1])):
        (run.logs.raw / "log" / folder).mkdir()
        for day in days:
            pq.write_table(day_of(day), run.logs.raw / "log" / folder / f"{day}.parquet")
    for day in DAYS:
        run.logs.file(day).unlink()


def out_with_files(run: Run) -> None:
    run.is_dry = False
    run.logs.out.mkdir()
    (run.logs.out / "notes.txt").write_text("")


def other_out(run: Run) -> None:
    run.logs.out = run.logs.root / "other"


def empty_days(run: Run) -> None:
    for day in DAYS:
        run.logs.write(day, day_of(day).slice(0, 0))


def whole_days(run: Run) -> None:
    for day in DAYS:
        run.logs.write(day, day_of(day))
