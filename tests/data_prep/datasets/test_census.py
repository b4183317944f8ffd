from __future__ import annotations

import gzip
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import prepare
from data_prep.datasets.census import COLUMNS, EXPECTED, FILES, NUMBER_COLUMNS, STAGED_SCHEMA, TEST, TRAIN, parse
from data_prep.datasets.fetch import FetchError, cache_folder
from data_prep.pipeline import fingerprint
from data_prep.progress import Progress
from data_prep.transforms.resolve import resolve
from ple_rec.errors import DataError, UserError
from tests.data_prep.datasets.census_slice import (
    BIN_EDGES,
    NOMINAL,
    Rows,
    Slice,
    as_bytes,
    census_config,
    column,
    expect,
    in_valid,
    make_rows,
    make_source,
    stage_slice,
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
    config = census_config()
    assert len(COLUMNS) == 42
    assert len(NOMINAL) == 32
    assert [feature.name for feature in config.sparse] == [
        *NOMINAL,
        *(f"{name}_id" for name in NUMBER_COLUMNS),
        *(f"{name}_bin" for name in BIN_EDGES),
    ]
    assert {name: spec.min_count for name, spec in config.tables.items()} == {
        feature.name: 5 if feature.name in NOMINAL else 10 for feature in config.sparse
    }
    money = ("wage_per_hour", "capital_gains", "capital_losses", "dividends")
    assert {number.name: number.normaliser for number in config.dense} == {
        name: "log" if name in money else "standard" for name in NUMBER_COLUMNS
    }
    resolved = resolve(config, "census.toml")
    features = {
        column
        for key, expression in resolved.parsed.items()
        if key.startswith(("sparse", "dense"))
        for column in expression.columns
    }
    assert features == {*NOMINAL, *NUMBER_COLUMNS}
    assert set(COLUMNS) - features == {"marital_status", "instance_weight", "income"}


def test_the_expected_files() -> None:
    assert {name: expected.rows for name, expected in EXPECTED.items()} == {TRAIN.name: 199_523, TEST.name: 99_762}


def test_what_is_staged(census: Slice, tmp_path: Path) -> None:
    tables = stage_slice(census.source, tmp_path / "staging", census.raw)
    halves = {keep: [p for p in range(len(census.test)) if in_valid(p) == keep] for keep in (True, False)}
    assert halves[True][:12] == [0, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13, 17]
    for file, rows in ((TRAIN, census.train), (TEST, census.test)):
        table = tables[file.name]
        assert table.schema == STAGED_SCHEMA
        for name in COLUMNS:
            cells = column(rows, name)
            assert table[name].to_pylist() == ([int(cell) for cell in cells] if name in NUMBER_COLUMNS else cells)
    assert tables[TRAIN.name]["split"].to_pylist() == ["train"] * len(census.train)
    split = tables[TEST.name]["split"].to_pylist()
    assert [p for p, name in enumerate(split) if name == "valid"] == halves[True]
    assert [p for p, name in enumerate(split) if name == "test"] == halves[False]


def test_the_checksums_tell_all_that_the_fingerprint_depends_on(census: Slice, tmp_path: Path) -> None:
    config = census_config()
    known = census.source.known_tables()
    gz = tmp_path / "gz"
    gz.mkdir()
    for file, rows in zip(FILES, (census.train, census.test), strict=True):  # another copy of the same cells
        (gz / f"{file.name}.gz").write_bytes(gzip.compress(as_bytes(rows, blank="", end="\r\n")))
    staged = census.source(resolve(config, "c"), str(gz), tmp_path / "staging", Progress("c"))
    assert fingerprint(config, staged, None) == fingerprint(config, known, None)
    for one in staged.log.files:
        found = pq.read_metadata(one.path)
        assert (one.rows, one.row_groups) == (found.num_rows, (found.row_group(0).num_rows,))
    assert staged.log.schema == pa.unify_schemas([pq.read_schema(one.path) for one in staged.log.files])
    other = make_source(census.train, census.test[:-1]).known_tables()
    assert fingerprint(config, other, None) != fingerprint(config, known, None)


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


def test_a_folder_without_the_files(census: Slice, tmp_path: Path) -> None:
    (census.raw / TEST.name).unlink()
    with pytest.raises(UserError) as caught:
        stage_slice(census.source, tmp_path / "staging", census.raw)
    assert str(caught.value) == (
        f"{census.raw}: no census-income.test or census_income_1994_1995_test.csv, plain or .gz, "
        "nor an archive with it; both files of the data set must be there. "
        "Fix: name the folder or the archive that holds them"
    )


def test_the_second_run_uses_the_cache(census: Slice, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead, other = FakeOrigin("the first"), FakeOrigin("the second", census.test, census.train)
    alive = FakeOrigin("the third", census.train, census.test)
    source = make_source(census.train, census.test, (dead, other, alive))
    with caplog.at_level(logging.WARNING):
        first = stage_slice(source, tmp_path / "staging")
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "census: the first: the line is dead",
        "census: the second: census-income.data: 300 rows",
    ]
    second = stage_slice(source, tmp_path / "again")
    assert len(alive.asked) == 1
    assert all(second[name].equals(table) for name, table in first.items())


def test_a_damaged_cache_is_fetched_again(census: Slice, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alive = FakeOrigin("there", census.train, census.test)
    source = make_source(census.train, census.test, (alive,))
    stage_slice(source, tmp_path / "staging")
    cached = cache_folder("census") / f"{TRAIN.name}.gz"
    cached.write_bytes(cached.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        stage_slice(source, tmp_path / "staging")
    assert len(alive.asked) == 2
    assert "fetching it again" in caplog.text
    stage_slice(source, tmp_path / "staging")
    assert len(alive.asked) == 2


def test_no_copy_to_be_had(census: Slice, tmp_path: Path) -> None:
    source = make_source(census.train, census.test, (FakeOrigin("the archive"), FakeOrigin("the package")))
    with pytest.raises(UserError) as caught:
        stage_slice(source, tmp_path / "staging")
    assert str(caught.value) == (
        "census: no copy could be downloaded (the archive: the line is dead; the package: the line is dead); the "
        "raw files come from the user, the cache or a download. Fix: put census-income.data and "
        "census-income.test into a folder and name it with --from"
    )


@pytest.mark.slow
def test_the_real_data(tmp_path: Path) -> None:
    try:
        summary = prepare("census", tmp_path / "census")
    except UserError as error:
        if "no copy could be downloaded" in str(error):
            pytest.skip(str(error))
        raise
    rows = {split: info.rows for split, info in summary.schema.splits.items()}
    assert rows == {"train": 199_523, "valid": 49_854, "test": 49_908}
    positives = {task: stats["train"]["positives"] for task, stats in summary.stats["tasks"].items()}
    assert positives == {"income": 12_382, "never_married": 86_485}
    assert summary.stats["columns"]["age"]["train"]["max"] == 90
    assert max(summary.oov_rates("test").values()) < 0.02
