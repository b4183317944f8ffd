from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import ibis
import pytest

from data_prep import prepare
from data_prep.census import (
    BIN_EDGES,
    COLUMNS,
    EXPECTED,
    NEVER_MARRIED,
    NOMINAL,
    NUMBERS,
    RICH,
    TEST,
    TRAIN,
    Census,
    parse,
)
from data_prep.fetch import FetchError, cache_folder
from ple_rec.config.base import Split
from ple_rec.errors import DataError, UserError
from tests.data_prep.census_slice import (
    Rows,
    Slice,
    as_bytes,
    column,
    expect,
    in_valid,
    make_rows,
    make_source,
    write_raw,
)


def changed(rows: Rows, row: int, name: str, value: str) -> Rows:
    copy = [list(cells) for cells in rows]
    copy[row][COLUMNS.index(name)] = value
    return copy


@dataclass
class FakeOrigin:
    """Writes the raw files, or fails."""

    label: str
    train: Rows | None = None
    test: Rows | None = None
    asked: list[Path] = field(default_factory=list)

    def download(self, folder: Path) -> None:
        self.asked.append(folder)
        if self.train is None or self.test is None:
            raise FetchError("the line is dead")
        write_raw(folder, self.train, self.test)


def test_roles() -> None:
    recipe = Census(EXPECTED, ()).recipe()
    assert len(COLUMNS) == 42
    assert len(NOMINAL) == 32
    assert {role.name for role in recipe.sparse} == {
        *NOMINAL,
        *(f"{name}_id" for name in NUMBERS),
        *(f"{name}_bin" for name in BIN_EDGES),
    }
    assert [role.name for role in recipe.dense] == list(NUMBERS)
    used = {role.column for role in recipe.sparse} | {role.column for role in recipe.dense}
    used -= {f"{name}_bin" for name in BIN_EDGES}
    assert set(COLUMNS) - used == {"marital_status", "instance_weight", "income"}


def test_the_expected_files() -> None:
    assert {name: expected.rows for name, expected in EXPECTED.items()} == {TRAIN.name: 199_523, TEST.name: 99_762}


def test_splits_and_labels(census: Slice) -> None:
    raw = census.source.splits(ibis.duckdb.connect(), census.raw)
    halves = {keep: [p for p in range(len(census.test)) if in_valid(p) == keep] for keep in (True, False)}
    assert halves[True][:12] == [0, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13, 17]
    splits: dict[Split, Rows] = {
        "train": census.train,
        "valid": [census.test[p] for p in halves[True]],
        "test": [census.test[p] for p in halves[False]],
    }
    for split, rows in splits.items():
        table = raw.tables[split]
        assert table["income"].to_pylist() == [float(cell == RICH) for cell in column(rows, "income")]
        married = column(rows, "marital_status")
        assert table["never_married"].to_pylist() == [float(cell == NEVER_MARRIED) for cell in married]
        assert table["age"].to_pylist() == [int(cell) for cell in column(rows, "age")]
        assert table["education"].to_pylist() == column(rows, "education")
        assert "marital_status" not in table.column_names
        assert "instance_weight" not in table.column_names
    assert raw.tables["valid"]["position"].to_pylist() == halves[True]


def test_blanks_and_line_ends_do_not_matter() -> None:
    rows = make_rows(20, 3)
    plain = parse(as_bytes(rows), expect(rows), "here")
    assert parse(as_bytes(rows, blank="", end="\r\n"), expect(rows), "here").equals(plain)
    assert parse(as_bytes(rows, blank=" \t"), expect(rows), "here").equals(plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "here: 19 rows; it must have 20. Fix: get the original file again"),
        (
            lambda rows: changed(rows, 4, "race", "Black or white"),
            "here: content checksum {found}; it must be {sha256}. Fix: get the original file again",
        ),
        (
            lambda rows: rows[1::-1] + rows[2:],
            "here: content checksum {found}; it must be {sha256}. Fix: get the original file again",
        ),
        (
            lambda rows: changed(rows, 4, "income", "50000"),
            "here: income '50000'; it must be '- 50000.' or '50000+.'. Fix: get the original file again",
        ),
        (
            lambda rows: changed(rows, 4, "age", "old"),
            "here: age: Failed to parse string: 'old' as a scalar of type int64; it must be an integer. "
            "Fix: get the original file again",
        ),
        (
            lambda rows: [*rows[:-1], rows[-1][:-1]],
            "here: CSV parse error: Expected 42 columns, got 41: ",
        ),
    ],
    ids=["rows", "cell", "order", "label", "number", "cells"],
)
def test_another_file(change: object, message: str) -> None:
    rows = make_rows(20, 3)
    assert callable(change)
    other = change(rows)
    with pytest.raises(DataError) as caught:
        parse(as_bytes(other), expect(rows), "here")
    assert message.format(found=expect(other).sha256, sha256=expect(rows).sha256) in str(caught.value)


def test_a_folder_without_the_files(census: Slice) -> None:
    (census.raw / TEST.name).unlink()
    with pytest.raises(UserError) as caught:
        census.source.splits(ibis.duckdb.connect(), census.raw)
    assert str(caught.value) == (
        f"{census.raw}: no census-income.test or census_income_1994_1995_test.csv, plain or .gz, "
        "nor an archive with it; both files of the data set must be there. "
        "Fix: name the folder or the archive that holds them"
    )


def test_the_second_run_uses_the_cache(census: Slice, caplog: pytest.LogCaptureFixture) -> None:
    dead, other = FakeOrigin("the first"), FakeOrigin("the second", census.test, census.train)
    alive = FakeOrigin("the third", census.train, census.test)
    source = make_source(census.train, census.test, (dead, other, alive))
    connection = ibis.duckdb.connect()
    with caplog.at_level(logging.WARNING):
        first = source.splits(connection, None)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "census: the first: the line is dead",
        "census: the second: census-income.data: 300 rows",
    ]
    second = source.splits(connection, None)
    assert len(alive.asked) == 1
    assert all(second.tables[split].equals(table) for split, table in first.tables.items())


def test_a_damaged_cache_is_fetched_again(census: Slice, caplog: pytest.LogCaptureFixture) -> None:
    alive = FakeOrigin("there", census.train, census.test)
    source = make_source(census.train, census.test, (alive,))
    source.splits(ibis.duckdb.connect(), None)
    cached = cache_folder("census") / f"{TRAIN.name}.gz"
    cached.write_bytes(cached.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        source.splits(ibis.duckdb.connect(), None)
    assert len(alive.asked) == 2
    assert "fetching it again" in caplog.text
    source.splits(ibis.duckdb.connect(), None)
    assert len(alive.asked) == 2


def test_no_copy_to_be_had(census: Slice) -> None:
    source = make_source(census.train, census.test, (FakeOrigin("the archive"), FakeOrigin("the package")))
    with pytest.raises(UserError) as caught:
        source.splits(ibis.duckdb.connect(), None)
    assert str(caught.value) == (
        "census: no copy to be had (the archive: the line is dead; the package: the line is dead); the raw files come "
        "from the user, the cache or a download. Fix: put census-income.data and census-income.test into a folder and "
        "name it with --from"
    )


@pytest.mark.slow
def test_the_real_data(tmp_path: Path) -> None:
    try:
        summary = prepare("census", tmp_path / "census")
    except UserError as error:
        if "no copy to be had" in str(error):
            pytest.skip(str(error))
        raise
    rows = {split: info.rows for split, info in summary.schema.splits.items()}
    assert rows == {"train": 199_523, "valid": 49_854, "test": 49_908}
    positives = {task: stats["train"]["positives"] for task, stats in summary.stats["tasks"].items()}
    assert positives == {"income": 12_382, "never_married": 86_485}
    assert summary.stats["columns"]["age"]["train"]["max"] == 90
    assert max(summary.oov_rates("test").values()) < 0.02
