"""Fixes that messages propose for a value of a wrong type: each is applied, and what comes of it is accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.sources.files import RawTable, discover
from data_prep.transforms.resolve import resolve
from data_prep.transforms.rows import LogRows, derive
from ple_rec.config.load import load_config
from ple_rec.config.prep import FilesConfig, PrepConfig
from ple_rec.errors import PleRecError

COLUMNS: dict[str, pa.Array] = {
    "price": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
    "serial": pa.array([Decimal(20240501)], pa.decimal128(20, 0)),
    "signup": pa.array([date(2024, 5, 1)]),
    "seen": pa.array([datetime(2024, 5, 1)], pa.timestamp("us")),
    "zoned": pa.array([datetime(2024, 5, 1)], pa.timestamp("us", "UTC")),
    "tags": pa.array([["a"]]),
    "codes": pa.array([[1]]),
    "scores": pa.array([[0.5]]),
    "hash": pa.array([20240501], pa.uint64()),
    "word": pa.array(["2024-05-01"]),
    "flag": pa.array([True]),
    "ratio": pa.array([0.5]),
    "number": pa.array([20240501]),
}
HEAD = """
name = "typed"
group = "number"

[log]
files = ["log.parquet"]
"""
REST = """
[time]
value = "number"
unit = "ms"

[split]
by = "day"
day_1 = "2024-05-01"
train = [1, 1]
test = [2, 2]
valid_share = 0.5
"""
SPARSE = '[[sparse]]\nname = "feature"\nvalue = "number"\n'
DENSE = '[[dense]]\nname = "feature"\nvalue = "number"\n'
TASK = '[[tasks]]\nname = "task"\nkind = "binary"\nlabel = "number"\n'
SIDE = '[sides.user]\nfiles = ["user.parquet"]\non = { number = "number" }\n'
BUCKETS, BAG = SPARSE + "edges = [1.0]\n", SPARSE.replace('"number"', '"tags"') + "bag = true\n"
THRESHOLD = TASK + '[tasks.threshold]\nvalue = "number"\nby = "number"\nquantile = 0.5\nedges = []\nvalues = [1.0]\n'
OPEN_THRESHOLD = THRESHOLD.replace("edges = []\nvalues = [1.0]\n", "")
BY_HASH = re.sub(r"(?s)\[split\].*", '[split]\nby = "hash"\nvalue = "number"\nvalid = 0.1\ntest = 0.1\n', REST)
SAMPLED = REST + '[sampling]\nkeep = "number = 1"\nrate = 0.5\nhash = ["number"]\n'
# A key, and the sections of the configuration around it.
KEYS: dict[str, tuple[str, str]] = {
    "sparse[0].value": (REST, SPARSE + TASK),
    "sparse[0].value of buckets": (REST, BUCKETS + TASK),
    "sparse[0].value of a bag": (REST, BAG + TASK),
    "sparse[0].weights": (REST, BAG + 'weights = "codes"\n' + TASK),
    "dense[0].value": (REST, DENSE + TASK),
    "tasks[0].label": (REST, SPARSE + TASK),
    "tasks[0].space": (REST, SPARSE + TASK + 'space = "flag"\n'),
    "tasks[0].threshold.value": (REST, SPARSE + OPEN_THRESHOLD),
    "tasks[0].threshold.by": (REST, SPARSE + THRESHOLD),
    "weight": (REST, SPARSE + TASK),
    "group": (REST, SPARSE + TASK),
    "split.value": (BY_HASH, SPARSE + TASK),
    "split.valid_hash": (REST, SPARSE + TASK),
    "sampling.keep": (SAMPLED, SPARSE + TASK),
    "sampling.hash[0]": (SAMPLED, SPARSE + TASK),
    "checks.sound": (REST + '[checks]\nsound = "flag"\n', SPARSE + TASK),
    "log.where": (REST, SPARSE + TASK),
    "sides.user.on.number": (REST + SIDE, SPARSE + TASK),
    "sides.user.on.word": (REST + SIDE.replace("number", "word"), SPARSE + TASK),
    "sides.user.day": (REST + SIDE + 'day = "signup"\n', SPARSE + TASK),
    "time.value": (REST, SPARSE + TASK),
    "time.value of a timestamp": (REST.replace('"number"\nunit = "ms"', '"seen"\nunit = "timestamp"'), SPARSE + TASK),
    "time.value of a date": (REST.replace('"number"\nunit = "ms"', '"signup"\nunit = "date"'), SPARSE + TASK),
}
OUTSIDE = re.compile(  # what is to be changed is the log
    r"(write|name) (the (column|items|local date|log's column|user)|such a list|a column)|"
    r"use unit = |use a column of|write the column"
)


class Typed:
    """A log and a side table of the same columns, one of each type."""

    def __init__(self, folder: Path, table: pa.Table, ending: str = "parquet") -> None:
        self.folder, self.ending, self.toml = folder, ending, folder / "typed.toml"
        for name in ("log", "user"):
            if ending == "parquet":
                pq.write_table(table, folder / f"{name}.parquet")
            else:
                pacsv.write_csv(table, folder / f"{name}.csv")
        (folder / "engine").mkdir()
        self.engine = DuckEngine(folder / "engine", threads=1)
        self._tables: dict[str, RawTable] = {}

    def _table(self, name: str, files: FilesConfig) -> RawTable:
        """The files of a table, which are read anew for another reading."""
        key = f"{name} {files.model_dump_json(include={'csv'})}"
        if key not in self._tables:
            self._tables[key] = discover(name, files, str(self.folder), self.folder / "csv", digest=False)
        return self._tables[key]

    def refusal(self, sections: tuple[str, str], overrides: dict[str, object]) -> str | None:
        """Return what is said of a configuration; None where its types are accepted."""
        self.toml.write_text((HEAD + "".join(sections)).replace(".parquet", f".{self.ending}"))
        texts = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
        try:
            resolved = resolve(load_config(PrepConfig, self.toml, texts), "typed.toml")
            tables = {"log": self._table("log", resolved.config.log)}
            tables |= {name: self._table(name, side) for name, side in resolved.config.sides.items()}
            for table in tables.values():
                resolved.check_columns(table)
            rows = LogRows(self.engine, replace(resolved, tables=tables))
            derive(rows.with_sides().joined(), rows.resolved, 19_844)
        except PleRecError as error:
            return str(error)
        return None


# A fix that names an expression, which may stand in place of a function or be followed by a reason.
WRITE = re.compile(r"(?:write|compare it:) (.+?)(?: in place of (\w+))?(?:, (?:or|its|the|with|to) .*|; .*)?$")
ROUNDS = 3  # Fixes after which an expression is accepted: one may lead to another.


def applied(key: str, fix: str) -> dict[str, object] | None:
    """Return the overrides that a fix proposes for the expression at a key; None for a fix outside of them."""
    if found := re.match(r"set ([\w.\[\]]+) = (.+?)(, or .*)?$", fix):
        name = found[1] if "." in found[1] else f"{key.rpartition('.')[0]}.{found[1]}"
        return {name: json.loads(found[2])}
    if fix.startswith("remove bag = true"):
        return {"sparse[0].bag": False}
    found = None if OUTSIDE.match(fix) else WRITE.match(fix)
    return {key: found[1]} if found else None


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    logs = Typed(tmp_path_factory.mktemp("typed"), pa.table(COLUMNS))
    yield logs
    logs.engine.close()


@pytest.fixture(scope="module")
def csv_typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    logs = Typed(tmp_path_factory.mktemp("csv"), pa.table(CSV_COLUMNS), "csv")
    yield logs
    logs.engine.close()


# One of each way through the code; the others take long.
FAST = {"sparse[0].value", "sparse[0].value of a bag", "dense[0].value", "tasks[0].label", "group", "time.value"}


@pytest.mark.parametrize("where", [pytest.param(key, marks=[] if key in FAST else [pytest.mark.slow]) for key in KEYS])
def test_every_fix_of_a_type_is_accepted_or_is_one_of_the_log(where: str, typed: Typed) -> None:
    check_fixes(typed, where, COLUMNS)


CSV_COLUMNS = {name: COLUMNS[name] for name in ("signup", "seen", "zoned", "word", "flag", "ratio", "number")}


@pytest.mark.parametrize("where", ["sparse[0].value", "dense[0].value", "checks.sound", "time.value of a timestamp"])
def test_fixes_of_csv_name_its_types(where: str, csv_typed: Typed) -> None:
    check_fixes(csv_typed, where, CSV_COLUMNS)


@pytest.mark.parametrize(
    "text", ["cast(signup as string)", "length(cast(date(seen) as string))", "signup = '2024-05-01'"]
)
def test_a_date_of_csv_is_written_and_compared_as_text(text: str, csv_typed: Typed) -> None:
    assert csv_typed.refusal(KEYS["tasks[0].label"], {"tasks[0].label": f"{text} is null"}) is None


def check_fixes(typed: Typed, where: str, columns: Iterable[str]) -> None:
    """Check the fix of every column that the key refuses."""
    assert typed.refusal(KEYS[where], {}) is None
    wrong = [problem for column in columns if (problem := fix_problem(typed, where, column))]
    assert not wrong, "\n".join(wrong)


def fix_problem(typed: Typed, where: str, column: str) -> str | None:
    """Return the messages about a column at a key, if what they propose is refused; None if it is accepted.

    A fix outside of the configuration ends the search.
    """
    key, sections = where.partition(" ")[0], KEYS[where]
    overrides: dict[str, object] = {key: column}
    told = []
    for _ in range(ROUNDS + 1):
        message = typed.refusal(sections, overrides)
        if message is None:
            return None
        told.append(f"{overrides}: {message}")
        fix = message.rpartition("Fix: ")[2]
        change = applied(key, fix)
        if change is None:
            return None if OUTSIDE.search(fix) else told[-1]
        overrides = overrides | change
    return "\n    then ".join(told)
