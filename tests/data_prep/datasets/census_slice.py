"""A made-up slice of Census-Income in the archive's own layout, small enough for every test."""

from __future__ import annotations

import bisect
import hashlib
import math
import random
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import Options, Summary
from data_prep.datasets.census import COLUMNS, NUMBER_COLUMNS, POOR, RICH, TEST, TRAIN, Census, ExpectedContent
from data_prep.datasets.fetch import Origin
from data_prep.progress import Progress
from data_prep.run import prepare_config, read_recipe
from data_prep.transforms.resolve import resolve
from ple_rec.config.prep import PrepConfig

Rows = list[list[str]]
TRAIN_ROWS, TEST_ROWS = 400, 300
NEVER_MARRIED = "Never married"
NOMINAL = tuple(
    name
    for name in COLUMNS
    if name not in NUMBER_COLUMNS and name not in ("marital_status", "instance_weight", "income")
)
_MONEY = tuple(sorted({round(math.exp(i / 3)) for i in range(35)}))
BIN_EDGES = {
    "age": tuple(range(5, 91, 5)),
    "wage_per_hour": _MONEY,
    "capital_gains": _MONEY,
    "capital_losses": _MONEY,
    "dividends": _MONEY,
    "weeks_worked": tuple(range(1, 53, 4)),
}

_VALUES = {
    "age": [str(age) for age in range(0, 91, 3)],
    "wage_per_hour": ["0"] * 9 + ["425", "1200", "1500"],
    "capital_gains": ["0"] * 9 + ["7298", "15024", "99999"],
    "capital_losses": ["0"] * 9 + ["1902"],
    "dividends": ["0"] * 9 + ["1", "50", "500"],
    "employer_size": [str(size) for size in range(7)],
    "weeks_worked": ["0"] * 5 + ["52"] * 4 + ["26", "13"],
    "marital_status": [NEVER_MARRIED, "Married-civilian spouse present", "Divorced", "Widowed"],
    "education": [
        "Children",
        "High school graduate",
        "Bachelors degree(BA AB BS)",
        "Masters degree(MA MS MEng MEd MSW MBA)",
    ],
    "instance_weight": ["1700.09", "1053.55", "991.95"],
    "year": ["94", "95"],
    "income": [POOR] * 9 + [RICH],
    "migration_msa": ["?", "Nonmover", "MSA to MSA"],
}
_OTHERS = ["Not in universe"] * 6 + ["?"] * 3 + ["United-States", "0", "2", "Foreign born- Not a citizen of U S "]


class Slice(NamedTuple):
    """A source, its raw files and what is in them."""

    source: Census
    raw: Path
    train: Rows
    test: Rows


def make_rows(count: int, seed: int) -> Rows:
    """Rows of 42 cells; one nominal column in eight has a value of its own in each row set, so that row 0 is met."""
    rng = random.Random(seed)
    rows = [[rng.choice(_VALUES.get(name, _OTHERS)) for name in COLUMNS] for _ in range(count)]
    for name in NOMINAL[::8]:
        rows[seed % count][COLUMNS.index(name)] = f"Only in {seed}"
    return rows


def as_bytes(rows: Rows, blank: str = " ", end: str = "\n") -> bytes:
    """The archive's layout: `, ` between cells, no header."""
    return "".join(f",{blank}".join(row) + end for row in rows).encode()


def expect(rows: Rows) -> ExpectedContent:
    """What `rows` must be verified against, computed the plain way."""
    text = "".join(",".join(cell.strip() for cell in row) + "\n" for row in rows)
    return ExpectedContent(len(rows), hashlib.sha256(text.encode()).hexdigest(), len(text.encode()))


def column(rows: Rows, name: str) -> list[str]:
    """The cells of a column, without the blanks around them."""
    return [row[COLUMNS.index(name)].strip() for row in rows]


def make_source(train: Rows, test: Rows, origins: tuple[Origin, ...] = ()) -> Census:
    """The census files, expecting these rows."""
    return Census({TRAIN.name: expect(train), TEST.name: expect(test)}, origins)


def prepare_slice(
    source: Census,
    out: Path,
    raw: Path | None = None,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    config: PrepConfig | None = None,
) -> Summary:
    """`prepare("census", out)` with a slice in the place of the real rows, by another configuration if one is given."""
    options = Options(source=None if raw is None else str(raw), threads=threads, overwrite=overwrite)
    return prepare_config(census_config() if config is None else config, "census.toml", out, options, source)


def census_config(*overrides: str) -> PrepConfig:
    """The configuration of `prep census`."""
    return read_recipe("census", overrides)[0]


def few_features(*overrides: str) -> PrepConfig:
    """The same with a nominal column, an exact value and two bins alone, for tests that prepare several times."""
    config = census_config(*overrides)
    names = ("education", "age_id", "age_bin", "dividends_bin")
    sparse = tuple(feature for feature in config.sparse if feature.name in names)
    tables = {name: table for name, table in config.tables.items() if name in names}
    return config.model_copy(update={"sparse": sparse, "dense": config.dense[:2], "tables": tables})


def stage_slice(source: Census, staging: Path, raw: Path | None = None) -> dict[str, pa.Table]:
    """The staged tables, by raw file."""
    resolved = resolve(census_config(), "census.toml")
    found = source(resolved, None if raw is None else str(raw), staging, Progress("census"))
    return {file.display_name: pq.read_table(file.path) for file in found.log.files}


def write_raw(folder: Path, train: Rows, test: Rows) -> Path:
    """Both files, as the archive names them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAIN.name).write_bytes(as_bytes(train))
    (folder / TEST.name).write_bytes(as_bytes(test))
    return folder


def in_valid(position: int) -> bool:
    """The rule that splits the official test set."""
    return hashlib.sha256(str(position).encode()).hexdigest()[0] < "8"


def bin_of(name: str, cell: str) -> int:
    """The bin of a number: how many edges it reaches."""
    return bisect.bisect_right(BIN_EDGES[name], int(cell))


def raw_value(name: str, cell: str) -> str | int:
    """A cell as the vocabulary holds it."""
    return int(cell) if name in NUMBER_COLUMNS else cell
