"""Columns of CSV files that are of another type than what reads them: the cell that made them so, and what to do."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dry_run import dry_run
from data_prep.inputs.read import InputOptions, open_inputs
from data_prep.progress import Progress
from data_prep.run import Options
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError, UserError
from tests.data_prep.plain_logs import DAY_1, DAY_MS, DAY_ROWS, TOML, Logs, day_of

CSV = TOML.replace('files = ["log"]', 'files = ["*.csv"]')


def csv_logs(root: Path, changes: Mapping[str, Any], toml: str = CSV) -> Logs:
    """Write the logs as CSV files of a day each, with other values: of some rows, or of every row by its number."""
    logs = Logs(root, toml)
    for day in range(1, 5):
        table = day_of(day)
        for name, values in changes.items():
            if callable(values):
                cells = [values((day - 1) * DAY_ROWS + i) for i in range(DAY_ROWS)]
            else:
                cells = [values.get((day, i), cell) for i, cell in enumerate(table[name].to_pylist())]
            table = table.set_column(table.column_names.index(name), name, [cells_as_text(cells)])
        with (logs.raw / f"day{day}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table.column_names)
            writer.writerows(zip(*table.to_pydict().values(), strict=True))
    return logs


def cells_as_text(cells: list[Any]) -> list[str]:
    return [str(cell) for cell in cells]


def moment(row: int) -> datetime:
    """Time of a row, UTC."""
    return datetime.fromtimestamp(int(DAY_1) / 1000, UTC) + timedelta(days=row // DAY_ROWS, hours=row % DAY_ROWS)


@pytest.mark.parametrize(
    ("changes", "message", "overrides"),
    [
        # a dense column, a number in an expression, a label and a time, each with one odd cell
        (
            {"price": {(1, 5): "NA"}},
            "day1.csv, line 7, column 'price': got 'NA', which makes the column text; a number is needed (plain.toml: "
            "dense[0].value). Fix: correct the cell, or add it to log.csv.nulls if it means a missing value",
            (),
        ),
        (
            {"duration_ms": {(1, 3): "0,5"}},
            "day1.csv, line 5, column 'duration_ms': got '0,5', and `duration_ms >= 0` compares a string with an "
            "integer; both sides must be of one kind (plain.toml: checks.duration). Fix: correct the cell, or add it",
            (),
        ),
        (
            {"is_like": {(1, 3): "is_like"}},
            "day1.csv, line 5, column 'is_like': got 'is_like', which makes the column text; a label is a boolean or",
            (),
        ),
        (
            {"time_ms": {(1, 3): "never"}},
            "day1.csv, line 5, column 'time_ms': got 'never', which makes the column text; unit = 'ms' needs integers",
            (),
        ),
        (
            {"time_ms": lambda row: "soon" if row == 6 else moment(row).replace(tzinfo=None)},
            "day1.csv, line 8, column 'time_ms': got 'soon', which makes the column text; unit = \"timestamp\" needs "
            "a timestamp (plain.toml: time.value). Fix: correct the cell, or add it to log.csv.nulls",
            ("time.unit=timestamp",),
        ),
        # some cells with an offset, some without
        (
            {"time_ms": lambda row: moment(row) if row else moment(row).replace(tzinfo=None)},
            "day1.csv, line 3, column 'time_ms': got '2022-04-15 01:00:00+00:00', which makes the column text; ",
            ("time.unit=timestamp",),
        ),
        # no cell is odd, but the column is text: declared so, or by the look of an id
        (
            {},
            "day1.csv, column 'price': got '0.0', of type string; a number is needed (plain.toml: dense[0].value). "
            'Fix: set log.csv.types.price = "double"',
            ('log.csv.types={price="string"}',),
        ),
        (
            {"duration_ms": lambda row: f"{row:03}"},
            "day1.csv, column 'duration_ms': got '000', of type string; a number is needed (plain.toml: dense[0].value)"
            '. Fix: set log.csv.types.duration_ms = "double"',
            ("dense[0].value=duration_ms", "checks={}"),
        ),
        # an id that looks like a date
        (
            {"video_id": lambda row: f"2024-05-{row % 7 + 1:02}"},
            "day1.csv, column 'video_id': got 2024-05-01, of type date; an id is an integer or text "
            '(plain.toml: sparse[0].value). Fix: set log.csv.types.video_id = "string"',
            (),
        ),
        (
            {"user_id": lambda row: f"2024-05-{row % 7 + 1:02} 10:00:00"},
            "day1.csv, column 'user_id': got 2024-05-01 10:00:00, of type timestamp(6); a group is an "
            'integer or text (plain.toml: group). Fix: set log.csv.types.user_id = "string"',
            (),
        ),
        # a date in an expression, behind a column of another type, and in place of a number
        (
            {"duration_ms": lambda row: f"2024-05-{row % 7 + 1:02}"},
            "day1.csv, column 'duration_ms': got 2024-05-01, and `duration_ms` is a date; "
            "`substr(duration_ms, 1, 7)` takes a string there (plain.toml: sparse[0].value). Fix: write "
            "cast(duration_ms as string)",
            ("sparse[0].value=if(price > 3, 'x', substr(duration_ms, 1, 7))", "checks={}"),
        ),
        (
            {"duration_ms": lambda row: f"2024-05-{row % 7 + 1:02}"},
            "day1.csv, column 'duration_ms': got 2024-05-01, of type date; a number is needed "
            "(plain.toml: dense[0].value). Fix: write days(duration_ms, '1970-01-01'), or for an age days(time, "
            "duration_ms)",
            ("dense[0].value=duration_ms", "checks={}"),
        ),
    ],
)
def test_the_cell_that_makes_a_column_text_is_named(
    changes: Mapping[str, Any], message: str, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    logs = csv_logs(tmp_path, changes)
    with pytest.raises(DataError) as caught:
        logs.prepare(*overrides)
    assert str(caught.value).startswith(message)


def test_a_text_is_no_odd_number(tmp_path: Path) -> None:
    """A column of text that an expression takes for a number; its first cell is as odd as all others."""
    logs = csv_logs(tmp_path, {})
    message = "day1.csv, column 'video_id': got 'v0', and `video_id >= 0` compares a string with an integer"
    with pytest.raises(DataError, match=rf"^{re.escape(message)}.* Fix: write '0', or cast\(video_id as double\)"):
        logs.prepare('checks={video="video_id >= 0"}')


IDS = ["007", "8", "9", "08"]  # text, for two of them look like ids


def test_types_that_were_inferred_stay_for_prediction(tmp_path: Path) -> None:
    """Ids are text to the model, whatever the rows of the day look like; labels may be missing, and values too."""
    declared = CSV.replace("[time]", 'csv = {types = {is_like = "int64"}}\n\n[time]')
    logs = csv_logs(tmp_path, {"video_id": lambda row: IDS[row % 4]}, declared)
    logs.prepare()
    config = load_config(PrepConfig, logs.out / "prep.toml")
    assert config.found.types["log"] == {
        "video_id": "string",
        "user_id": "int64",
        "time_ms": "int64",
        "duration_ms": "int64",
        "price": "double",
    }

    def read(text: str) -> pa.Table:
        (tmp_path / "new.csv").write_text(text)
        asked = InputOptions(str(tmp_path / "new.csv"), ".", ("video_id", "price"), ("user_id",), threads=1)
        with open_inputs(config, "prep.toml", asked, tmp_path / "work", Progress("plain")) as found:
            return pa.concat_tables(found.batches())

    rows = read("video_id,price,user_id\n9,1,3\n8,2.5,4\n")
    assert rows["raw__video_id"].to_pylist() == ["9", "8"]
    assert rows["price"].to_pylist() == [1.0, 2.5]
    assert read("video_id,price,user_id\n9,,3\n8,,4\n")["price"].to_pylist() == [None, None]
    assert read("video_id,price,user_id\n").num_rows == 0
    message = r"new\.csv, line 2, column 'user_id': got '007'; the column is int64, as in the files that were prepared"
    with pytest.raises(DataError, match=message):  # which is another user than 7
        read("video_id,price,user_id\n9,1,007\n")


def test_an_appended_day_is_read_as_the_first_days_were(tmp_path: Path) -> None:
    logs = csv_logs(tmp_path, {"video_id": lambda row: IDS[row % 4]})
    logs.prepare("log.files=['day[1-4].csv']", "tables.video_id.capacity=9")
    for day in range(1, 5):
        (logs.raw / f"day{day}.csv").unlink()
    rows = "".join(f"{i % 7},{i % 2 + 8},{DAY_1 + 4 * DAY_MS + i},1,1,0\n" for i in range(40))
    (logs.raw / "day5.csv").write_text("user_id,video_id,time_ms,duration_ms,price,is_like\n" + rows)
    parent, logs.out = logs.out, tmp_path / "next"
    logs.prepare("tables.video_id.capacity=9", "append={valid=0.3,test=0.3}", append="5", parent=parent)
    found = pq.read_table(logs.out / "vocab" / "video_id.parquet").to_pydict()
    assert found["raw"] == pq.read_table(parent / "vocab" / "video_id.parquet")["raw"].to_pylist()
    assert sorted(found["raw"]) == sorted(IDS)
    types = [load_config(PrepConfig, out / "prep.toml").found.types for out in (parent, logs.out)]
    assert types[0] == types[1]


def test_types_that_were_inferred_are_no_change_of_the_configuration(tmp_path: Path) -> None:
    logs = csv_logs(tmp_path, {})
    logs.prepare()
    assert logs.prepare().reused
    with pytest.raises(UserError, match=r'; configuration: weight is "price", was not set; a dataset directory'):
        logs.prepare("weight=price")


@pytest.mark.parametrize(
    ("zone", "offset", "overrides", "warned"),
    [
        pytest.param(8, "+08:00", (), True, marks=pytest.mark.slow),
        (8, "+08:00", ("time.utc_offset=+08:00",), False),
        pytest.param(8, "+08:00", ("time.utc_offset=+09:00",), True, marks=pytest.mark.slow),
        (-3.5, "-03:30", (), True),
        pytest.param(0, "", (), False, marks=pytest.mark.slow),
        (0, "", ("time.utc_offset=+08:00",), False),  # moments in UTC, whose days are those of another place
    ],
)
def test_an_offset_in_the_text_that_does_not_cut_the_days_is_told(
    zone: float,
    offset: str,
    overrides: tuple[str, ...],
    warned: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = timezone(timedelta(hours=zone))
    logs = csv_logs(tmp_path, {"time_ms": lambda row: (moment(row) + timedelta(hours=6)).astimezone(place)})
    with suppress(DataError):  # of another number of days
        logs.prepare("time.unit=timestamp", *overrides)
    cut = overrides[0][-6:] if overrides else "+00:00"
    message = (
        f"day1.csv, column 'time_ms': its times have the offset {offset}, but time.utc_offset is {cut}, which "
        f'determines their days (plain.toml: time.value). Fix: set time.utc_offset = "{offset}"'
    )
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [message] * warned
    caplog.clear()
    with suppress(DataError):
        dry_run(
            str(logs.toml),
            None,
            Options(source=str(logs.raw), threads=1, overrides=("time.unit=timestamp", *overrides)),
        )
    assert [each.message for each in caplog.records if each.levelname == "WARNING"] == [message] * warned


@pytest.mark.parametrize(
    ("zone", "offsets", "utc_offset"),
    [
        pytest.param("Asia/Shanghai", "+08:00", "+00:00", marks=pytest.mark.slow),
        pytest.param("Asia/Shanghai", "", "+08:00", marks=pytest.mark.slow),
        pytest.param("-03:30", "-03:30", "+00:00", marks=pytest.mark.slow),
        ("Europe/Berlin", "+02:00", "+01:00"),
        ("UTC", "", "+08:00"),
        pytest.param(None, "", "+08:00", marks=pytest.mark.slow),
    ],
)
def test_a_zone_in_parquet_that_does_not_cut_the_days_is_told(
    zone: str | None, offsets: str, utc_offset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = Logs(tmp_path)
    for day in range(1, 5):
        times = pa.array(day_of(day)["time_ms"].to_pylist(), pa.timestamp("ms", zone))
        logs.spoil(day, "time_ms", times)
    logs.prepare("time.unit=timestamp", f"time.utc_offset={utc_offset}")
    warnings = [each.message for each in caplog.records]
    assert len(warnings) == bool(offsets)
    assert all(f"'time_ms': its times have the offset {offsets}, but time.utc_offset is" in each for each in warnings)


@pytest.mark.parametrize(
    ("unit", "fix"), [("date", 'set log.csv.types.time_ms = "string"'), ("ms", 'set time.unit = "timestamp"')]
)
def test_a_moment_is_no_date_and_no_number(unit: str, fix: str, tmp_path: Path) -> None:
    place = timezone(timedelta(hours=8))
    logs = csv_logs(tmp_path, {"time_ms": lambda row: moment(row).replace(tzinfo=place)})
    with pytest.raises(DataError, match=rf"^day1\.csv, column 'time_ms': got .* of type timestamp.* Fix: {fix}"):
        logs.prepare(f"time.unit={unit}")
    if unit == "date":  # the date that is written
        summary = logs.prepare("time.unit=date", 'log.csv.types={time_ms="string"}')
        assert summary.stats["rows"] == {"train": 2 * DAY_ROWS, "valid": DAY_ROWS, "test": DAY_ROWS}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("sparse[0].value", "cast(seen as string)"),
        ("group", "cast(seen as string)"),
        ("dense[0].value", "days(seen, '1970-01-01')"),
    ],
)
def test_a_date_becomes_an_id_or_a_number_as_the_message_says(key: str, text: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    for day in range(1, 5):
        days = [datetime(2024, 5, 1 + i % 7).date() for i in range(DAY_ROWS)]
        logs.write(day, day_of(day).append_column("seen", [days]))
    assert f"Fix: write {text}" in logs.refusal(f"{key}=seen")
    logs.prepare(f"{key}={text}")


@pytest.mark.parametrize("override", ["sparse[1].value=substr(cast(user.signup as string), 1, 7)",
                                      'sides.user.csv.types.signup="string"'])  # fmt: skip
def test_a_date_of_a_side_table_is_written_or_read_as_text(override: str, tmp_path: Path) -> None:
    side = '[sides.user]\nfiles = ["user.csv"]\non = {user_id = "user_id"}\n'
    toml = TOML + side + '[[sparse]]\nname = "month"\nvalue = "substr(user.signup, 1, 7)"\n'
    logs = Logs(tmp_path, toml)
    rows = [f"{user},2024-0{user + 1}-01" for user in range(7)]
    (logs.raw / "user.csv").write_text("\n".join(["user_id,signup", *rows, ""]))
    assert logs.refusal().endswith('Fix: write cast("user".signup as string)')
    logs.prepare(override)
    vocabulary = pq.read_table(logs.out / "vocab/month.parquet")["raw"].to_pylist()
    assert sorted(vocabulary) == [f"2024-0{month}" for month in range(1, 8)]


@pytest.mark.parametrize("name", ["sign up.date", "signup.date", 'sign "up"'])
def test_the_type_of_a_column_with_an_odd_name_is_a_key_that_is_read(name: str, tmp_path: Path) -> None:
    logs = csv_logs(tmp_path, {})
    for path in logs.raw.glob("*.csv"):
        header, rest = path.read_text().split("\n", 1)
        rows = (line + ",2024-05-01" for line in rest.splitlines())
        quoted = name.replace('"', '""')
        path.write_text("\n".join([f'{header.rstrip()},"{quoted}"', *rows]) + "\n")
    word = name.replace('"', '""')
    feature = f'sparse=[{{name = "signup", value = \'"{word}"\'}}]'
    found = re.search(r'Fix: set (log\.csv\.types\..+) = ("string")$', logs.refusal(feature))
    assert found is not None
    section, _, key = found[1].partition("types.")
    with logs.toml.open("a") as file:
        file.write(f"\n[{section}types]\n{key} = {found[2]}\n")
    logs.prepare(feature)
