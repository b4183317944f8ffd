"""Dates, times, decimals and lists in expressions: values as Python computes them, offsets, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from typing import Any

import duckdb
import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.expressions import parse
from data_prep.expressions.times import micros_of_literal
from ple_rec.errors import UserError

OFFSETS = (0, 8 * 3_600, -(9 * 3_600 + 1_800))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
duck = duckdb.connect()
duck.execute("SET TimeZone = 'UTC'")


@lru_cache(maxsize=64)  # Random examples share few queries, and to compile one takes much longer than to run it.
def compiled(columns: pa.Schema, texts: tuple[str, ...], offset_seconds: int) -> tuple[str, pa.Schema]:
    """Return the SQL of expressions on the columns of a table `rows`, and the types of their values."""
    table = ibis.table(ibis.Schema.from_pyarrow(columns), name="rows")
    built = {
        text: parse(text, "t").build({name: table[name] for name in columns.names}, offset_seconds=offset_seconds)
        for text in texts
    }
    selected = table.select(**built)
    return str(ibis.to_sql(selected, dialect="duckdb")), selected.schema().to_pyarrow()


def values(columns: dict[str, pa.Array], texts: list[str], offset_seconds: int = 0) -> dict[str, list[Any]]:
    """Return the values of expressions on columns, by DuckDB."""
    rows = pa.table(columns)
    sql, types = compiled(rows.schema, tuple(texts), offset_seconds)
    duck.register("rows", rows)
    found: dict[str, list[Any]] = duck.execute(sql).to_arrow_table().cast(types).to_pydict()
    return found


def micros(value: datetime | date, offset_seconds: int) -> int:
    """Return the microseconds from 1970-01-01 to the local date and clock time of a value."""
    if not isinstance(value, datetime):
        return (value - EPOCH.date()) // timedelta(microseconds=1)
    moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1) + offset_seconds * 10**6


def local(value: datetime | date, offset_seconds: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=micros(value, offset_seconds))


_dates = st.dates(date(1900, 1, 1), date(2999, 12, 31))
_moments = st.datetimes(datetime(1900, 1, 2), datetime(2999, 12, 30))
_zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_zoned = st.datetimes(datetime(1900, 1, 3), datetime(2999, 12, 28), timezones=_zones)
# Ways to write a time, and how exact each is.
_WRITERS: list[tuple[Callable[[datetime], str], timedelta]] = [
    (lambda moment: moment.isoformat(), timedelta(microseconds=1)),
    (lambda moment: moment.isoformat(" ", "milliseconds"), timedelta(milliseconds=1)),
    (lambda moment: moment.isoformat("T", "seconds"), timedelta(seconds=1)),
    (lambda moment: moment.isoformat(" ", "minutes"), timedelta(minutes=1)),
]


def cut(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - datetime(1900, 1, 1, tzinfo=moment.tzinfo)) % step


# Few examples of many rows: DuckDB plans 85 expressions for each example.
@settings(max_examples=9, derandomize=True, database=None, deadline=None)
@given(
    rows=st.lists(st.tuples(_dates, _moments, _zoned | _moments, st.sampled_from(_WRITERS)), min_size=15, max_size=40),
    offset=st.sampled_from(OFFSETS),
)
def test_dates_and_times_are_those_of_python(rows: list[Any], offset: int) -> None:
    columns = {
        "d": pa.array([row[0] for row in rows], pa.date32()),
        "m": pa.array([row[1] for row in rows], pa.timestamp("us")),
        "z": pa.array([row[1] for row in rows], pa.timestamp("us", "UTC")),
        "t": pa.array([write(moment) for _, _, moment, (write, _) in rows]),
        "u": pa.array([day.isoformat() for day, *_ in rows]),
    }
    python = {
        "d": [row[0] for row in rows],
        "m": [row[1] for row in rows],
        "z": [row[1] for row in rows],
        "t": [cut(moment, step) for _, _, moment, (_, step) in rows],
        "u": [row[0] for row in rows],
    }
    one = {f"{name}({column})": (name, column) for name in ("date", "weekday", "hour", "month") for column in columns}
    two = {f"{name}({a}, {b})": (name, a, b) for name in ("days", "hours") for a in columns for b in columns}
    compared = {f"{a} < {b}": (a, b) for a in "dmz" for b in columns}
    found = values(columns, [*one, *two, *compared], offset)
    read: dict[str, Callable[[datetime], Any]] = {
        "date": datetime.date,
        "weekday": datetime.weekday,
        "hour": lambda moment: moment.hour,
        "month": lambda moment: moment.month,
    }
    for text, (name, column) in one.items():
        assert found[text] == [read[name](local(value, offset)) for value in python[column]], text
    unit = {"days": 8.64e10, "hours": 3.6e9}
    for text, (name, a, b) in two.items():
        pairs = zip(python[a], python[b], strict=True)
        assert found[text] == [float(micros(x, offset) - micros(y, offset)) / unit[name] for x, y in pairs], text
    for text, (a, b) in compared.items():
        pairs = zip(python[a], python[b], strict=True)
        assert found[text] == [micros(x, offset) < micros(y, offset) for x, y in pairs], text


_odd_texts = st.from_regex(
    r"(19|2[0-9])[0-9]{2}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-6][0-9](:[0-6][0-9]([.][0-9]{1,8})?)?"
    r"(Z|[+-][0-2][0-9]:[0-9]{2})?)?",
    fullmatch=True,
)


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(texts=st.lists(_odd_texts | st.text("0129-:TZ. +\n", max_size=12), min_size=1), offset=st.sampled_from(OFFSETS))
def test_a_text_in_quotes_is_read_as_a_column_of_texts(texts: list[str], offset: int) -> None:
    found = values({"t": pa.array(texts)}, ["days(t, '1970-01-01')"], offset)["days(t, '1970-01-01')"]
    literals = [micros_of_literal(text, offset) for text in texts]
    assert found == [None if each is None else each / 8.64e10 for each in literals]


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    prices=st.lists(st.none() | st.decimals(-(10**25), 10**25, places=3) | st.decimals(-9, 9, places=3), min_size=1),
    counts=st.lists(st.integers(INT_MIN, INT_MAX) | st.integers(-(10**4), 10**4), min_size=1),
    exponent=st.integers(-5, 4),
)
def test_units_and_casts_of_decimals_are_exact(prices: list[Decimal | None], counts: list[int], exponent: int) -> None:
    unit = Decimal(1).scaleb(exponent)

    def counted(number: Decimal | int | None) -> int | None:
        if number is None:
            return None
        numerator, denominator = Decimal(number).as_integer_ratio()
        top, bottom = unit.as_integer_ratio()
        whole, rest = divmod(numerator * bottom, denominator * top)
        return whole if rest == 0 and INT_MIN <= whole <= INT_MAX else None

    decimals = pa.array(prices, pa.decimal128(38, 3))
    columns = {"p": decimals, "t": decimals.cast(pa.string())}
    of_p, of_t = (f"units({name}, '{unit:f}')" for name in columns)
    found = values(columns, [of_p, of_t, "cast(p as int)", "p"])
    assert found[of_p] == found[of_t] == [counted(price) for price in prices]
    wholes = [None if price is None else int(price) for price in prices]
    assert found["cast(p as int)"] == [None if n is None or not INT_MIN <= n <= INT_MAX else n for n in wholes]
    assert found["p"] == [None if price is None else float(price) for price in prices]
    of_n = f"units(n, '{unit:f}')"
    assert values({"n": pa.array(counts, pa.int64())}, [of_n])[of_n] == [counted(count) for count in counts]


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    lists=st.lists(st.none() | st.lists(st.none() | st.integers(-2, 2)), min_size=1),
    i=st.none() | st.integers(-2, 5),
    number=st.none() | st.integers(-2, 2),
)
def test_items_of_lists_are_those_of_python(
    lists: list[list[int | None] | None], i: int | None, number: int | None
) -> None:
    rows = len(lists)
    columns = {
        "l": pa.array(lists, pa.list_(pa.int32())),
        "i": pa.array([i] * rows, pa.int64()),
        "n": pa.array([number] * rows, pa.int64()),
    }
    found = values(columns, ["element(l, i)", "contains(l, n)"])
    inside = [items is not None and i is not None and 1 <= i <= len(items) for items in lists]
    assert found["element(l, i)"] == [
        items[i - 1] if is_inside and items is not None and i is not None else None
        for items, is_inside in zip(lists, inside, strict=True)
    ]
    assert found["contains(l, n)"] == [None if items is None or number is None else number in items for items in lists]


def test_nanoseconds_of_a_column_are_cut() -> None:
    moments = pa.array([1_709_164_800_123_456_789], pa.timestamp("ns"))
    found = values({"x": moments}, ["hours(x, '1970-01-01')"])["hours(x, '1970-01-01')"]
    assert found == [1_709_164_800_123_456 / 3.6e9]


TABLE = ibis.table(
    {
        "signup": "date",
        "seen": "timestamp",
        "number": "int64",
        "ratio": "float64",
        "flag": "boolean",
        "word": "string",
        "price": "decimal(10, 2)",
        "tags": "array<string>",
    },
    name="log",
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("days(number, seen)", "`number` is an integer; `days(number, seen)` takes a date, time or string there. Fix: "
         "write timestamp(number, 'ms'), with the unit of the number: 's', 'ms', 'us' or 'ns'"),
        ("days(seen, '2024-5-1')", "`'2024-5-1'` is no date or time; a date is YYYY-MM-DD, a time YYYY-MM-DD HH:MM:SS, "
         "with +HH:MM unless it is UTC, from 1900 to 2999. Fix: write it like '2024-05-01'"),
        ("signup < '2024-02-30'", "`'2024-02-30'` is no date or time; a date is YYYY-MM-DD, a time YYYY-MM-DD "
         "HH:MM:SS, with +HH:MM unless it is UTC, from 1900 to 2999. Fix: write it like '2024-05-01'"),
        ("timestamp(number, 'minute')", "`'minute'` is no unit of time; `timestamp(number, 'minute')` takes the unit "
         "of the number there. Fix: write 's', 'ms', 'us' or 'ns'"),
        ("units(price, '0.02')", "`'0.02'` is not such a text; `units(price, '0.02')` takes a power of ten in single "
         "quotes there. Fix: write '0.01', '1' or '100'"),
        ("units(ratio, '0.01')", "`ratio` is a float; `units(ratio, '0.01')` takes a decimal, integer or string "
         "there. Fix: write round(ratio * 100) in place of units, to count in units of 0.01"),
        ("contains(tags, number)", "`number` is an integer; `contains(tags, number)` takes a string there, as the "
         "items of the list are. Fix: write cast(number as string)"),
        ("contains(tags, null)", "`NULL` is null; `contains(tags, NULL)` takes a string there, as the items of the "
         "list are. Fix: write cast(null as string), or the expression without it"),
        ("element(word, 1)", "`word` is a string; `element(word, 1)` takes a list there. "
         "Fix: write split(word, ',')"),
        ("signup + 1", "`signup` is a date; `signup + 1` takes a number there. "
         "Fix: write days(signup, '1970-01-01'), or for an age days(time, signup)"),
        ("seen = 3", "`seen = 3` compares a time with an integer; both sides must be of one kind. "
         "Fix: write timestamp(3, 'ms'), with the unit of the number: 's', 'ms', 'us' or 'ns'"),
        ("coalesce(signup, seen)", "`coalesce(signup, seen)` mixes a date with a time; its values "
         "must be of one kind (integers with floats become floats). Fix: write date(seen)"),
        ("list_contains(tags, 'a')", "there is no function 'list_contains'"),
    ],
)  # fmt: skip
def test_what_has_no_date_or_no_item_is_refused_with_a_fix(text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(text, "t").build({name: TABLE[name] for name in TABLE.columns})
    assert said in str(refused.value)


def test_functions_of_sql_lead_to_those_of_expressions() -> None:
    for text, name in {
        "array_contains(a, 1)": "contains(list, x)",
        "element_at(a, 1)": "element(list, i)",
        "datediff(a, b)": "days(later, earlier)",
        "to_timestamp(a)": "timestamp(x, 'ms')",
        "dayofweek(a)": "weekday(x)",
        "to_date(a)": "date(x)",
    }.items():
        with pytest.raises(UserError) as refused:
            parse(text, "t")
        assert refused.value.fix == f"did you mean `{name}`?"
