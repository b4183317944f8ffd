"""What is wrong with the logs is refused with its place."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.errors import UserError
from tests.data_prep.bad_logs import (
    INF,
    NAN,
    Spoil,
    a_day_of_nan_among_ones,
    corrupt,
    corrupt_values,
    damage_a_header,
    everywhere,
    flip_a_bit,
    flip_a_bit_below_an_empty_row_group,
    no_rows,
    not_utf8,
    truncated,
    wide,
)
from tests.data_prep.plain_logs import DAY_1, DAY_MS, DAY_ROWS, SIDE, TOML, Logs, day_of

DROP = ("on_bad_row=drop", "max_bad_fraction=0.5")
NO_PRICE = TOML.replace('[[dense]]\nname = "price"\n', "")
REGRESSION = NO_PRICE.replace('"binary"\nlabel = "is_like"', '"regression"\nlabel = "price"')
BAG = TOML + '\n[[sparse]]\nname = "tags"\nbag = true\nweights = "tag_weights"\nmax_length = 2\n'
DATED = TOML + SIDE.replace('"user_id"}', '"user_id"}\nday = "day"')
AGE = {number: f"a{number % 3}" for number in range(7)}
CORRECT = 'Fix: correct the log or the configuration, or drop such rows: on_bad_row = "drop"'

REFUSED: dict[str, tuple[str, Spoil, str]] = {
    "a missing column": (
        TOML,
        lambda logs: logs.write(2, day_of(2).drop_columns(["price"])),
        "log/day 2.parquet, column 'price': there is no such column; plain.toml: dense[0].value `price` needs it in "
        "every file. Fix: use one of user_id, video_id, time_ms, duration_ms, is_like",
    ),
    "a type of one file": (
        TOML,
        lambda logs: logs.spoil(2, "price", ["1"] * DAY_ROWS),
        "log/day 2.parquet, column 'price': type string, but double in log/day 1.parquet; a column has one type in all "
        "files of a table (plain.toml: dense[0].value `price`). Fix: write the files with one type",
    ),
    "a dense column of text": (
        TOML,
        everywhere("price", [None] + ["1"] * (DAY_ROWS - 1)),
        "log/day 1.parquet, row group 0, column 'price': got '1', of type string; a number is needed (plain.toml: "
        "dense[0].value). Fix: write cast(price as double)",
    ),
    "a check of text": (
        TOML,
        everywhere("duration_ms", ["1"] * DAY_ROWS),
        "log/day 1.parquet, row group 0, column 'duration_ms': got '1', and `duration_ms >= 0` compares a string with "
        "an integer; both sides must be of one kind (plain.toml: checks.duration). Fix: write '0', or "
        "cast(duration_ms as double)",
    ),
    "a time of floats": (
        TOML,
        everywhere("time_ms", [1.5] * DAY_ROWS),
        "log/day 1.parquet, row group 0, column 'time_ms': got 1.5, of type float64; unit = 'ms' needs "
        "integers, counted from 1970-01-01 (plain.toml: time.value). Fix: write cast(time_ms as bigint)",
    ),
    "a time of timestamps": (
        TOML,
        everywhere("time_ms", pa.array([DAY_1] * DAY_ROWS, pa.timestamp("ms", "UTC"))),
        "log/day 1.parquet, row group 0, column 'time_ms': got 2022-04-15 00:00:00+00:00, of type timestamp",
    ),
    "an id of floats": (
        TOML,
        everywhere("video_id", [None] + [1.5] * (DAY_ROWS - 1)),
        "log/day 1.parquet, row group 0, column 'video_id': got 1.5, of type float64; an id is an integer or text "
        "(plain.toml: sparse[0].value). Fix: write cast(video_id as bigint); give a number edges or quantiles",
    ),
    "a group of floats": (
        TOML,
        everywhere("user_id", [1.5] * DAY_ROWS),
        "log/day 1.parquet, row group 0, column 'user_id': got 1.5, of type float64; a group is an integer or text",
    ),
    "NaN": (
        TOML,
        lambda logs: logs.spoil(2, "price", {13: NAN}),
        "log/day 2.parquet, row group 1, row 3: dense[0].value `price` is nan; a dense value is missing or a finite "
        f"float32 (1 row). {CORRECT}",
    ),
    "infinity": (
        TOML,
        lambda logs: logs.spoil(2, "price", {13: INF, 14: -INF}),
        "log/day 2.parquet, row group 1, row 3: dense[0].value `price` is inf; a dense value is missing or a finite "
        f"float32 (2 rows). {CORRECT}",
    ),
    "a number beyond float32": (
        TOML,
        lambda logs: logs.spoil(2, "price", {13: 1e300}),
        "log/day 2.parquet, row group 1, row 3: dense[0].value `price` is 1e+300; a dense value is missing or a finite",
    ),
    "a label that is 2": (
        TOML,
        lambda logs: logs.spoil(3, "is_like", {21: 2}),
        "log/day 3.parquet, row group 2, row 1: tasks[0].label `is_like` is 2.0; a binary label is 0 or 1 (1 row). "
        f"{CORRECT}",
    ),
    "no label": (
        TOML,
        lambda logs: logs.spoil(3, "is_like", {21: None}),
        "log/day 3.parquet, row group 2, row 1: tasks[0].label `is_like` is missing; a binary label is 0 or 1 (1 row). "
        'Fix: say where it exists: tasks[0].space = "is_like is not null", or correct the log',
    ),
    "no label, by an expression": (
        TOML.replace('"is_like"', '"price > duration_ms"'),
        lambda logs: logs.spoil(3, "price", {21: None}),
        'Fix: say where it exists: tasks[0].space = "(price > duration_ms) is not null", or correct the log',
    ),
    "no label inside its space": (
        TOML + 'space = "price >= 0"\n',
        lambda logs: logs.spoil(3, "is_like", {21: None}),
        "is missing; a binary label is 0 or 1 where price >= 0 (1 row). Fix: say where it exists: tasks[0].space = "
        '"(price >= 0) and is_like is not null", or correct the log',
    ),
    "NaN among ones": (
        TOML,
        a_day_of_nan_among_ones,
        "log/day 2.parquet, row group 0, row 9: tasks[0].label `is_like` is nan; a binary label is 0 or 1 (1 row)",
    ),
    "a label above its range": (
        REGRESSION + "maximum = 20.0\n",
        lambda logs: None,
        "log/day 4.parquet, row group 0, row 9: tasks[0].label `price` is 20.25; the label is finite and at most 20.0 "
        f"(15 rows). {CORRECT}",
    ),
    "a regression label that is NaN": (
        REGRESSION + "maximum = 24.0\n",
        lambda logs: logs.spoil(2, "price", {13: NAN}),
        "log/day 2.parquet, row group 1, row 3: tasks[0].label `price` is nan; the label is finite and at most 24.0",
    ),
    "a label beyond float32": (
        REGRESSION,
        lambda logs: logs.spoil(2, "price", {13: 1e300}),
        "log/day 2.parquet, row group 1, row 3: tasks[0].label `price` is 1e+300; the label is finite (1 row)",
    ),
    "a weight that is NaN": (
        f'weight = "price"\n{NO_PRICE}',
        lambda logs: logs.spoil(2, "price", {13: NAN}),
        "log/day 2.parquet, row group 1, row 3: weight `price` is nan; a sample weight is finite and at least 0",
    ),
    "a negative weight": (
        f'weight = "price"\n{NO_PRICE}',
        lambda logs: logs.spoil(2, "price", {13: -1.0}),
        "log/day 2.parquet, row group 1, row 3: weight `price` is -1.0; a sample weight is finite and at least 0",
    ),
    "a negative duration": (
        TOML,
        lambda logs: logs.spoil(1, "duration_ms", {5: -7}),
        "log/day 1.parquet, row group 0, row 5: checks.duration: duration_ms is -7; it must hold: duration_ms >= 0 "
        f"(1 row). {CORRECT}",
    ),
    "a truncated file": (
        TOML,
        truncated,
        "log/day 2.parquet: the file is truncated or damaged (Parquet magic bytes not found in footer.",
    ),
    "a corrupt page": (TOML, corrupt, "log/day 2.parquet, row group 1, column 'video_id': the page is damaged ("),
    "a flipped bit": (
        TOML,
        flip_a_bit,
        "log/day 2.parquet, row group 1, column 'user_id': the page is damaged (could not verify page integrity",
    ),
    "a damaged header": (
        TOML,
        damage_a_header,
        "log/day 2.parquet, row group 0, column 'user_id': the page is damaged (",
    ),
    "corrupt values": (TOML, corrupt_values, "log/day 2.parquet, row group 1, column 'video_id'"),
    "another bit below an empty row group": (
        TOML,
        flip_a_bit_below_an_empty_row_group,
        "log/day 2.parquet, row group 1, column 'user_id'",
    ),
    "an empty day": (
        TOML,
        lambda logs: logs.write(2, day_of(2).slice(0, 0)),
        "plain.toml: split.train: no row on 2022-04-16; every day from 2022-04-15 to 2022-04-16 has rows. Fix: give "
        "the missing files, correct the range or [time], or list the day in split.empty_days",
    ),
    "a missing day": (
        TOML,
        lambda logs: logs.file(2).unlink(),
        "plain.toml: split.train: no row on 2022-04-16; every day from 2022-04-15 to 2022-04-16 has rows. Fix: give",
    ),
    "no row": (
        TOML,
        no_rows,
        "plain.toml: log: no row; day 1 is the first day of the log. Fix: give more of the log",
    ),
    "seconds": (
        TOML,
        everywhere("time_ms", lambda day: [(DAY_1 + (day - 1) * DAY_MS) // 1000] * DAY_ROWS),
        "log/day 1.parquet, row group 0, row 0: time.value `time_ms` is 1649980800; as ms it must lie between "
        '2000-01-01 and 2099-12-31, and so in no row of the log. Fix: as s it is 2022-04-15: set time.unit = "s"',
    ),
    "seconds in one row": (
        TOML,
        lambda logs: logs.spoil(3, "time_ms", {4: (DAY_1 + 2 * DAY_MS) // 1000}),
        "log/day 3.parquet, row group 0, row 4: time.value `time_ms` is 1650153600; as ms it must lie between "
        "2000-01-01 and 2099-12-31 (1 row). Fix: correct the log or the configuration, or drop such rows",
    ),
    "microseconds": (
        TOML,
        everywhere("time_ms", lambda day: [(DAY_1 + (day - 1) * DAY_MS) * 1000] * DAY_ROWS),
        'Fix: as us it is 2022-04-15: set time.unit = "us"',
    ),
    "text that is not UTF-8": (
        TOML,
        not_utf8,
        "log/day 2.parquet, row group 1, column 'video_id', row 4: got b'v\\xff1'; text is UTF-8. Fix: write the column"
        " as UTF-8, or as an integer",
    ),
    "an expression beyond int64": (
        TOML + '\n[[sparse]]\nname = "more"\nvalue = "user_id * 4"\n',
        lambda logs: logs.spoil(2, "user_id", {17: 2**62}),
        "log/day 2.parquet, row group 1, row 7: sparse[1].value `user_id * 4` exceeds int64 where user_id = "
        "4611686018427387904; integers are computed in int64, from -2^63 to 2^63 - 1. Fix: correct the value, or "
        "compute in floats: cast(x as double)",
    ),
    "uint64 beyond int64": (
        TOML,
        wide(1, 3),
        "log/day 1.parquet, row group 2, row 3: column 'user_id' is 9223372036854775813; integers are int64, at most "
        f"2^63 - 1 (2 rows). {CORRECT}",
    ),
    "json of a column of integers": (
        TOML.replace('name = "price"\n', 'name = "price"\nvalue = "cast(json(duration_ms, \'$.a\') as double)"\n'),
        lambda logs: None,
        "log/day 1.parquet, row group 0, column 'duration_ms': got 0, and `duration_ms` is an integer; "
        "`json(duration_ms, '$.a')` takes a string there (plain.toml: dense[0].value). "
        "Fix: write cast(duration_ms as string)",
    ),
    "hashed floats": (
        re.sub(
            r'by = "day".*test = \[4, 4\]', 'by = "hash"\nvalue = "price"\nvalid = 0.3\ntest = 0.3', TOML, flags=re.S
        ),
        lambda logs: None,
        "log/day 1.parquet, row group 0, column 'price': got 0.0, of type float64; a hashed value is an integer or "
        "text (plain.toml: split.value)",
    ),
}


# One of each kind; what differs from one of them by a value or a type alone takes a preparation as long.
LONG = {
    *("a time of timestamps", "a group of floats", "NaN", "a number beyond float32", "no label"),
    *("no label inside its space", "a regression label that is NaN", "a label beyond float32", "a negative weight"),
    *("a negative duration", "a corrupt page", "a damaged header", "corrupt values"),
    *("another bit below an empty row group", "a missing day", "seconds in one row", "microseconds"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in REFUSED]
)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    toml, spoil, message = REFUSED[name]
    logs = Logs(tmp_path, toml)
    spoil(logs)
    assert message in logs.refusal()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            (),
            "plain.toml: split.train: no row on 2022-04-15, 2022-04-16 but 48 bad ones, which are left out; every "
            "day from 2022-04-15 to 2022-04-16 has rows. Fix: correct the rule or the rows; on_bad_row",
        ),
        (
            ("split={by='column',value=\"if(price < 12, 'train', if(price < 18, 'valid', 'test'))\"}",),
            "plain.toml: split: no row lies in train (left out of it: 48 rows, mostly by checks.late: price: it must "
            "hold: price >= 12); train, valid and test each need rows, since training reads all three. "
            "Fix: correct the rule, or the rows",
        ),
    ],
)
def test_a_split_that_lost_all_its_rows_to_a_rule(split: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in Logs(tmp_path).refusal(*DROP, 'checks={late="price >= 12"}', *split)


def bag(tags: list[Any] | None, weights: list[Any] | None, item: pa.DataType | None = None) -> Spoil:
    """Bags in the first row of day 2, and two sound items in every other row."""

    def spoil(logs: Logs) -> None:
        kind = item or pa.string()
        sound = ["a", "b"] if kind == pa.string() else [1, 2]
        for day in range(1, 5):
            rows = [(tags, weights) if day == 2 and not i else (sound, [1.0, 2.0]) for i in range(DAY_ROWS)]
            table = day_of(day).append_column("tags", pa.array([row[0] for row in rows], pa.list_(kind)))
            weigh = pa.array([row[1] for row in rows], pa.list_(pa.float64()))
            logs.write(day, table.append_column("tag_weights", weigh))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bag(["a", "b", "c"], [1.0, 3.0]), "[1.0, 3.0]; as many weights as 'tags' has items (1 row)"),
        (bag(["a"], None), "missing; as many weights as 'tags' has items (1 row)"),
        (bag(["a", "b"], [1.0, NAN]), "[1.0, nan]; weights are finite (1 row)"),
        (bag(["a", "b"], [1.0, None]), "[1.0, None]; weights are finite (1 row)"),
        (bag(["a", "b"], [1.0, 1e300]), "[1.0, 1e+300]; weights are finite (1 row)"),
    ],
)
def test_bags_that_are_refused(spoil: Spoil, message: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path, BAG)
    spoil(logs)
    assert f"log/day 2.parquet, row group 0, row 0: sparse[1].weights `tag_weights` is {message}" in logs.refusal()


def test_a_bag_beyond_int64(tmp_path: Path) -> None:
    logs = Logs(tmp_path, BAG)
    bag([1, 2**63 + 1], [1.0, 2.0], pa.uint64())(logs)
    assert "row group 0, row 0: column 'tags' is [1, 9223372036854775809]; integers are int64" in logs.refusal()
    dropped = logs.prepare(*DROP).stats["dropped"]
    assert dropped == [{"split": "train", "rows": 1, "reason": "column 'tags': integers are int64, at most 2^63 - 1"}]


SIDE_REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a key that stands twice": (
        [{"user_id": 3, "age": "b"}],
        "users.parquet, row group 1, row 0: user_id = 3 occurs 2 times, first in users.parquet, row group 0, row 3 "
        "(repeated keys: 1, in 2 rows); a key of the side table 'users' must occur once. Fix: remove the repeated "
        "rows, "
        'add a column in which they differ to `on`, or choose one of them: sides.users.keep = "first" or "last"',
    ),
    "keys that stand several times": (
        [{"user_id": user, "age": "b"} for user in (5, 3, 5, 4)],
        "users.parquet, row group 1, row 1: user_id = 3 occurs 2 times, first in users.parquet, row group 0, row 3 "
        "(repeated keys: 3, in 7 rows); a key of the side table 'users' must occur once",
    ),
    "a key of text": (
        [],
        "log/day 1.parquet and users.parquet, column 'user_id': `user_id` is int64 and users.user_id is string; both "
        "must be integers or both text (plain.toml: sides.users.on.user_id)",
    ),
    "json of a column of floats": (
        [],
        "users.parquet, row group 0, column 'age': got 1.5, and `users.age` is a float; `json(users.age, '$.a')` takes "
        "a string there (plain.toml: sparse[1].value). Fix: write cast(round(users.age) as string)",
    ),
    "a feature of floats": (
        [],
        "users.parquet, row group 0, column 'age': got 1.5, of type float64; an id is an integer or text "
        "(plain.toml: sparse[1].value)",
    ),
}


@pytest.mark.parametrize("name", SIDE_REFUSED)
def test_side_tables_that_are_refused(name: str, tmp_path: Path) -> None:
    more, message = SIDE_REFUSED[name]
    logs = Logs(tmp_path, TOML + SIDE)
    rows: list[dict[str, Any]] = [{"user_id": user, "age": age} for user, age in AGE.items()]
    if name == "a key of text":
        rows = [row | {"user_id": str(row["user_id"])} for row in rows]
    if name.startswith("json"):
        logs.toml.write_text(logs.toml.read_text().replace('"users.age"', "\"json(users.age, '$.a')\""))
    if name.endswith("of floats"):
        rows = [row | {"age": 1.5} for row in rows]
    logs.users(rows + more, row_group_size=7)
    assert message in logs.refusal()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"user_id": 3, "day": 20220415},
            "users.parquet, row group 1, row 0: user_id = 3 occurs 2 times on 2022-04-15, first in users.parquet, row "
            "group 0, row 3 (repeated keys: 1, in 2 rows); a key of the side table 'users' must occur once a day. ",
        ),
        (
            {"user_id": 3, "day": 20220230},
            "users.parquet, row group 1, row 0, day: no day; a row of a dated side table has a date, text "
            "that begins with YYYY-MM-DD or an integer YYYYMMDD",
        ),
        (
            {"user_id": 3, "day": 20221399},
            "users.parquet, row group 1, row 0, day: no day; a row of a dated side table has a date, ",
        ),
    ],
)
def test_dated_side_tables_that_are_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path, DATED)
    rows = [{"user_id": user, "age": age, "day": 20220415} for user, age in AGE.items()]
    logs.users([*rows, more | {"age": "b"}], row_group_size=7)
    assert message in logs.refusal()


def test_a_side_table_beyond_int64(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + SIDE)
    table = pa.table({"user_id": pa.array([1, 2**63 + 9], pa.uint64()), "age": ["a", "b"]})
    pq.write_table(table, logs.raw / "users.parquet")
    assert (
        "users.parquet, row group 0, row 1, column 'user_id': got 9223372036854775817; integers are int64, at most "
        "2^63 - 1. Fix: write it as text, or correct the row" in logs.refusal()
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [("label_like", "the label of task 'like'"), ("log_day", "the day of the row"), ("Group", "the group")],
)
def test_a_column_that_would_stand_in_place_of_another(name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"carry.{name}: the column is {what}; use another name"):
        Logs(tmp_path).prepare(f'carry={{{name}="price"}}')
    with pytest.raises(UserError, match=rf"feature '{name}': the column is {what}; use another name"):
        Logs(tmp_path / "other").prepare(f'dense=[{{name="{name}",value="price"}}]')


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.file(2).chmod(0)
    if os.access(logs.file(2), os.R_OK):
        pytest.skip("this user may read every file")
    assert "log/day 2.parquet: cannot be read (Permission denied); every file of a table is read" in logs.refusal()
