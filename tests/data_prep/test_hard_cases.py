"""Inputs for which a plausible pipeline writes something else, and nobody notices."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.engines.base import PART, PartFile, Unit
from data_prep.engines.duck import DuckEngine
from data_prep.failures import OutOfMemoryError
from data_prep.output.parts import ParquetPartSink
from data_prep.run import Options, prepare
from ple_rec.errors import DataError, UserError
from tests.data_prep.feed_logs import digests, read
from tests.data_prep.plain_logs import DAY_1, DAY_ROWS, SIDE, TOML, Logs, day_of, with_column

BY_COLUMN = 'split={by="column",value="part_of"}'
DROP = ("on_bad_row=drop", "max_bad_fraction=0.9")


def test_a_stretch_of_the_log_with_bad_rows_alone_leaves_none_of_them(tmp_path: Path) -> None:
    """Parts of 8 rows; train and test take turns; all rows of the second part that are test's are bad."""
    logs = Logs(tmp_path, days=1)
    table = day_of(1)
    turns = ["train" if i % 2 else "test" if i % 4 else "valid" for i in range(DAY_ROWS)]
    prices = [float("nan") if 8 <= i < 16 and i % 2 == 0 else 1.0 for i in range(DAY_ROWS)]
    table = with_column(table, "price", prices, pa.float64()).append_column("part_of", pa.array(turns))
    logs.write(1, table)
    summary = logs.prepare(BY_COLUMN, *DROP, "output.part_rows=8")
    assert summary.stats["rows"] == {"train": 12, "valid": 4, "test": 4}
    for split in ("train", "valid", "test"):
        assert set(read(logs.out, split)["price"].to_pylist()) == {1.0}


def test_bad_rows_do_not_move_edges(tmp_path: Path) -> None:
    clean, dirty = Logs(tmp_path / "clean"), Logs(tmp_path / "dirty")
    table = day_of(2)
    bad = with_column(table, "duration_ms", [-1_000_000] * DAY_ROWS)
    dirty.write(2, pa.concat_tables([table, bad]))
    buckets = 'sparse=[{name="length",value="price + duration_ms",quantiles=4}]'
    for logs in (clean, dirty):
        logs.prepare(buckets, *DROP)
    assert digests(clean.out)["train/part-00000.parquet"] != ""
    assert read(clean.out, "train")["length"].equals(read(dirty.out, "train")["length"])


def test_a_name_that_is_a_pattern_means_its_own_file(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.file(2).rename(logs.file(2).with_name("day [2].parquet"))
    pq.write_table(with_column(day_of(2), "price", [999.0] * DAY_ROWS), logs.raw / "day 2.parquet")
    (logs.raw / "day 2.parquet").rename(logs.file(2))
    logs.prepare(r'log.files=["log/day 1.parquet", "log/day [[]2].parquet", "log/day 3.parquet", "log/day 4.parquet"]')
    assert 999.0 not in read(logs.out, "train")["price"].to_pylist()


@pytest.mark.parametrize("unit", [pytest.param("us", marks=pytest.mark.slow), "ns"])
def test_the_last_moment_of_a_day_belongs_to_it(unit: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    first = datetime.fromtimestamp(DAY_1 / 1000, UTC)
    for day in range(1, 5):
        start = first + timedelta(days=day - 1)
        times = [start] * (DAY_ROWS - 1) + [start + timedelta(days=1) - timedelta(microseconds=1)]
        logs.spoil(day, "time_ms", pa.array(times, pa.timestamp(unit, "UTC")))
    summary = logs.prepare("time.unit=timestamp")
    assert summary.stats["rows"] == {"train": 2 * DAY_ROWS, "valid": DAY_ROWS, "test": DAY_ROWS}


def test_the_time_zone_of_the_machine_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for zone in ("UTC", "Asia/Shanghai"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        logs = Logs(tmp_path / zone.replace("/", "_"))
        for day in range(1, 5):
            times = [datetime.fromtimestamp(ms / 1000, UTC) for ms in day_of(day)["time_ms"].to_pylist()]
            late = [t.replace(tzinfo=None) + timedelta(hours=20) for t in times]
            logs.spoil(day, "time_ms", pa.array(late, pa.timestamp("us")))
        logs.prepare("time.unit=date")
        written.append(digests(logs.out))
    monkeypatch.undo()
    time.tzset()
    assert written[0] == written[1]


def test_the_engine_counts_days_in_utc(tmp_path: Path) -> None:
    engine = DuckEngine(tmp_path)
    assert engine._duck.execute("SELECT current_setting('TimeZone')").fetchone() == ("UTC",)
    engine.close()


def test_a_number_says_which_rows_to_take(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    summary = logs.prepare("log.where=is_like")
    assert summary.stats["rows"]["train"] == 2 * DAY_ROWS // 3
    with pytest.raises((DataError, UserError), match="a condition is true or false"):
        logs.prepare("log.where=video_id", overwrite=True)


@pytest.mark.slow
def test_as_many_buckets_and_parts_as_the_configuration_allows(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    many = 'sparse=[{name="length",value="duration_ms",quantiles=1000}]'
    threshold = 'tasks=[{name="like",kind="binary",label="price > threshold",threshold={value="price",quantile=0.5,'
    logs.prepare(many, threshold + 'by="duration_ms",bins=1000}}]')
    assert len(set(read(logs.out, "train")["length"].to_pylist())) > 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "split.test=[2, 4]",
            r"split: test: it begins on 2, train ends on 2; valid and test come after train",
        ),
        ("split.valid=[4, 4]", "split: valid and test share days; a day lies in one split"),
        ("split.valid=[5, 3]", "split: valid: 5 comes after 3; a range is its first and its last day"),
        (
            "time.earliest=1960-01-01",
            "got '1960-01-01'; a day is 1970-01-02 or later, so that no time is before 1970 in UTC",
        ),
        ("append={valid=0.6,test=0.6}", "leave nothing to train"),
        ('dense=[{name="a__b",value="price"}]', "names with two underscores in a row are reserved"),
        ('dense=[{name="Price",value="price"},{name="price"}]', "differ only in case"),
        (
            'sparse=[{name="a",value="video_id",table="T"},{name="b",value="video_id",table="t"}]',
            "'T' and 't' differ only in case",
        ),
    ],
)
def test_a_configuration_that_cannot_be_meant(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Logs(tmp_path).prepare(change)


def test_numbers_and_dates_that_overlap_are_refused_before_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Day 1 tells where numbers lie; the rest of the log need not be read for it."""
    monkeypatch.setattr("data_prep.pipeline.survey", lambda *given: pytest.fail("rows are counted"))
    logs = Logs(tmp_path)
    mixed = 'split={by="day",train=[1,2],test=["2022-04-16","2022-04-18"],valid_share=0.5}'
    said = "split: test: it begins on 2022-04-16, train ends on 2; valid and test come after train"
    with pytest.raises(UserError, match=said):
        logs.prepare(mixed)
    with pytest.raises(UserError, match=said):
        dry_run(str(logs.toml), None, Options(source=str(logs.raw), threads=1, overrides=(mixed,)))


def test_a_sampled_out_row_is_judged_too(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.spoil(1, "price", dict.fromkeys(range(10), float("inf")))
    sampling = 'sampling={keep="is_like = 1",rate=0.1,hash=["video_id","time_ms"]}'
    summary = logs.prepare(sampling, *DROP)
    dropped = summary.stats["dropped"]
    assert sum(entry["rows"] for entry in dropped if "finite" in entry["reason"]) == 10


def test_rows_without_a_group_are_cut_like_any(tmp_path: Path) -> None:
    """The test day has 240 rows: 200 without a group, 20 of group -5 and 20 of group 3; parts have 100 rows."""
    logs = Logs(tmp_path)
    table = day_of(4, rows=240)
    groups = [None if i % 12 < 10 else -5 if i % 12 == 10 else 3 for i in range(240)]
    logs.write(4, with_column(table, "user_id", groups, pa.int64()))
    logs.prepare("output.part_rows=100", "output.row_group_rows=30")
    found = read(logs.out, "test")
    order = [i for group in (-5, None, 3) for i in range(240) if groups[i] == group]  # None is -1 to readers
    assert found["group"].to_pylist() == [groups[i] for i in order]
    assert found["price"].to_pylist() == [table["price"][i].as_py() for i in order]
    footers = [pq.read_metadata(path) for path in sorted((logs.out / "test").iterdir())]
    assert [footer.num_rows for footer in footers] == [100, 100, 40]
    sizes = [footer.row_group(i).num_rows for footer in footers for i in range(footer.num_row_groups)]
    assert max(sizes) == 20  # group 3 is not cut


def test_integers_at_both_ends_of_their_range_find_their_rows(tmp_path: Path) -> None:
    """Ids that lie close together are looked up in an array, and those beyond its ends are unknown."""
    logs = Logs(tmp_path)
    least, most = -(2**63), 2**63 - 1
    for day, low in ((1, -3), (2, -3), (3, least), (4, most - 3)):
        ids = [None, low, low + 1, low + 3] * 6 if day != 4 else [most, -3, 0, -4] * 6
        logs.write(day, with_column(day_of(day), "video_id", ids, pa.int64()))
    logs.prepare()
    assert read(logs.out, "train")["video_id"].to_pylist() == [0, 1, 2, 3] * 12
    assert set(read(logs.out, "valid")["video_id"].to_pylist()) == {0}
    assert sorted(set(read(logs.out, "test")["video_id"].to_pylist())) == [0, 1, 3]

    ends = Logs(tmp_path / "ends")
    for day in (1, 2, 3, 4):
        ends.write(day, with_column(day_of(day), "video_id", [most, most - 1, 0, None] * 6, pa.int64()))
    ends.prepare('log.where="video_id > 0"')
    assert set(read(ends.out, "test")["video_id"].to_pylist()) == {1, 2}


def test_a_unit_for_which_memory_was_too_little_runs_again_alone(tmp_path: Path) -> None:
    engine = DuckEngine(tmp_path, memory=1 << 30, threads=2)
    raised: list[int] = []

    def advance(rows: int) -> None:
        if not raised:
            raised.append(rows)
            raise OutOfMemoryError("prep --memory", "too little", "it must fit", "give more")

    schema = pa.schema([("x", pa.int64())])
    units = []
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        rows = ibis.range(1000).unnest().name("x").as_table().mutate(**{PART: ibis.literal(0, "int32")})
        layout = ParquetPartSink(tmp_path / split, schema, None, (), 100)
        units.append(Unit(rows.mutate(x=rows["x"].cast("int64")), ("x",), layout, 1000))
    written = {unit.sink.folder.name: files for unit, files in engine.write_units(units, 1, advance)}
    assert raised == [1000]
    assert written == {"train": [PartFile(0, 1000, 10)], "test": [PartFile(0, 1000, 10)]}
    assert read(tmp_path, "train")["x"].to_pylist() == list(range(1000))
    raised.clear()
    with pytest.raises(OutOfMemoryError):  # alone from the start: it is given up
        list(DuckEngine(tmp_path / "test", memory=1 << 30, threads=1).write_units(units[:1], 1, advance))
    engine.close()


def test_a_date_that_python_has_not_is_carried(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    for day in range(1, 5):
        logs.write(
            day, day_of(day).append_column("end", pa.array([2**31 - 1] * DAY_ROWS, pa.int32()).cast(pa.date32()))
        )
    logs.prepare('carry={until="end"}')
    assert read(logs.out, "train")["until"].cast(pa.int32()).unique().to_pylist() == [2**31 - 1]


def test_paths_may_be_texts(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    summary = prepare(logs.toml, str(logs.out), Options(source=str(logs.raw), threads=1))
    assert summary.out == logs.out


def test_a_column_with_the_name_of_one_of_duckdbs_is_a_column(tmp_path: Path) -> None:
    """DuckDB gives files columns of these names, by which rows are numbered; those of the log stay what they are."""
    logs, names = Logs(tmp_path), ("file_row_number", "File_Index", "filename")
    for day in range(1, 5):
        table = day_of(day)
        for name in names:
            table = table.append_column(name, pa.array([7 * i for i in range(DAY_ROWS, 0, -1)]))
        logs.write(day, table)
    carry = ",".join(f'own_{i}="{name}"' for i, name in enumerate(names))
    logs.prepare(f"carry={{{carry}}}")
    found = read(logs.out, "train")
    days = [day_of(day) for day in (1, 2)]
    assert found["price"].to_pylist() == [price for day in days for price in day["price"].to_pylist()]
    for i in range(len(names)):
        assert found[f"own_{i}"].to_pylist() == [7 * i for i in range(DAY_ROWS, 0, -1)] * 2


def test_a_side_table_with_columns_of_the_names_of_duckdbs(tmp_path: Path) -> None:
    """A bag is encoded in ranges of the side table's rows, which are numbered too."""
    toml = TOML + SIDE.replace('name = "age"', 'name = "age"\nbag = true')
    written = list[pa.Table]()
    for more in ({}, {"file_row_number": 0, "file_index": 1}):
        logs = Logs(tmp_path / str(len(written)), toml)
        logs.users([{"user_id": i, "age": [f"a{i}"] * (i % 3), **more} for i in range(7)])
        logs.prepare()
        written.append(read(logs.out, "train"))
    assert written[0].equals(written[1])
