"""What expressions give on DuckDB, and, as slow tests, on a real local Spark."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from data_prep.engines.spark_json import register_functions
from data_prep.expressions import FUNCTIONS, is_overflow, parse
from data_prep.expressions.syntax import MAX_DEPTH
from tests.data_prep.expressions.json_documents import DOCUMENTS, PATHS, expressions_at, json_texts

INF, NAN = math.inf, math.nan
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
BELOW = math.nextafter(2.0**63, 0)


Bound = tuple[str, Mapping[str, str]]  # an expression, and the column of each of its names


class OnDuckDB:
    """Expressions on the rows of a Parquet file, by DuckDB."""

    overflow: type[Exception] = duckdb.OutOfRangeException

    def __init__(self, folder: Path) -> None:
        self.folder, self.duck = folder, ibis.duckdb.connect()

    def values(self, table: pa.Table, expressions: Sequence[Bound]) -> pa.Table:
        """A column for each expression."""
        rows = self.duck.read_parquet(_written(table, self.folder))
        return self.duck.to_pyarrow(_select(rows, expressions)).sort_by("row_").drop("row_")


class OnSpark:
    """The same by a real local Spark."""

    def __init__(self, session: Any, folder: Path) -> None:
        from pyspark.errors import ArithmeticException

        register_functions(session)
        self.session, self.folder, self.spark = session, folder, ibis.pyspark.connect(session)
        self.overflow: type[Exception] = ArithmeticException

    def values(self, table: pa.Table, expressions: Sequence[Bound]) -> pa.Table:
        """A column for each expression, through Parquet, as the pipeline writes it: pandas makes null of NaN."""
        file = _written(table, self.folder)
        query = self.spark.compile(_select(self.spark.read_parquet(file), expressions))
        self.session.sql(query).write.mode("overwrite").parquet(f"{file}.out")
        return pq.read_table(f"{file}.out").sort_by("row_").drop("row_")


def _written(table: pa.Table, folder: Path) -> str:
    file = folder / f"{len(list(folder.iterdir()))}.parquet"
    pq.write_table(table.append_column("row_", pa.array(range(len(table)))), file)
    return str(file)


def _select(table: Any, expressions: Sequence[Bound]) -> Any:
    built = {
        f"e{i}": parse(text, "t").build({name: table[column] for name, column in names.items()})
        for i, (text, names) in enumerate(expressions)
    }
    return table.select(row_=table.row_, **built)


Engine = OnDuckDB | OnSpark


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> OnDuckDB:
    return OnDuckDB(tmp_path_factory.mktemp("duck"))


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnSpark]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PySpark warns of pandas 3, which is not used here
        from pyspark.sql import SparkSession

        settings = {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # starts sooner
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.log.level": "OFF",
            "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
            "spark.sql.session.timeZone": "UTC",  # as the pipeline's
            "spark.sql.shuffle.partitions": "1",
            "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
        }
        builder = SparkSession.builder.master("local[1]")
        for key, value in settings.items():
            builder = builder.config(key, value)
        session = builder.getOrCreate()
        engine = OnSpark(session, tmp_path_factory.mktemp("spark"))
    yield engine
    session.stop()


@pytest.fixture(params=["duck", pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.slow])])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.getfixturevalue(request.param)
    return found


def same(a: object, b: object) -> bool:
    """Equal to the bit, but for which NaN it is: -0.0 is not 0.0, true is not 1."""
    return repr(a) == repr(b)


# Text that is a number to one engine or the other.
TEXTS = ["", "12", " 12 ", "+5", "-0", "007", "12\n", "1.5", "1e3", "NaN", "inf", "1d", "0x10", "1_0", None, "\u0663"]

# ISO texts and others, and their days since 2024-02-28.
ISO: list[str | None] = [
    "2024-02-29", "2024-02-29T12:00", "2024-02-29 12:00:00Z", "2024-02-29T12:00:00.5+08:00", "2024-02-29 00:00-12:00",
    "2023-02-29", "2024-13-01", "2024-02-29T24:00", "2024-02-29T12", "2024-02-29 12:00 ", " 2024-02-29", "2024-2-29",
    "2024-02-29T12:00:00.1234567", "1899-12-31", "3000-01-01", "", None, "2024-02-29\n", "2024-02-29+08:00",
    "2100-02-29", "2000-02-29",
]  # fmt: skip
ISO_DAYS = [1.0, 1.5, 1.5, (86_400 + 4 * 3_600 + 0.5) / 86_400, 1.5, *[None] * 7,
            129_600_123_456 / 8.64e10, *[None] * 7, -8765.0]  # fmt: skip
DATES = [date(1970, 1, 1), date(1900, 1, 1), None, date(2999, 12, 31), None, date(2024, 2, 29)]
MOMENTS = [datetime(2024, 2, 29), datetime(2024, 2, 28, 23, 59, 59, 999_999), None,
           datetime(2024, 2, 29, 23, 59, 59, 999_999)]  # fmt: skip
# Dates and times of the smallest and the largest integers, which DuckDB takes for infinite ones, and of 0.
ENDLESS_DATES = [2**31 - 1, -(2**31) + 1, 2**31 - 2, 0]
ENDLESS_TIMES = [INT_MAX, INT_MIN + 1, INT_MAX - 1, INT_MIN // 2, 0]
PRICES = [Decimal("1.50"), Decimal("-0.05"), Decimal("0.00"), Decimal(INT_MAX) / 100, Decimal("1000000000000000000.01"),
          None, Decimal("7.00")]  # fmt: skip
NUMBER_TEXTS = ["1.5", "-1.50", ".5", "+5.", "1.505", "", "1e2", "1,5", " 12 ", None]

# A column `x`, an expression, and what comes of it on both engines.
CASES: list[tuple[pa.Array, str, list[Any]]] = [
    (pa.array([1, 0, None], pa.int8()), "7 / x", [7.0, None, None]),
    (pa.array([1.0, 0.0, -0.0, INF, NAN], pa.float64()), "7 / x", [7.0, None, None, 0.0, NAN]),
    (pa.array([7, -7, INT_MIN, INT_MAX, None], pa.int64()), "x // 2", [3, -3, -(2**62), 2**62 - 1, None]),
    (pa.array([7, -7, INT_MIN, INT_MAX, None], pa.int64()), "x % 2", [1, -1, 0, 1, None]),
    (pa.array([7, -7, INT_MIN, INT_MAX, None], pa.int64()), "x % -4", [3, -3, 0, 3, None]),
    (pa.array([7, 0, INT_MAX], pa.int64()), "x // -1", [-7, 0, -INT_MAX]),
    (pa.array([7, INT_MIN], pa.int64()), "x % -1", [0, 0]),
    (pa.array([7, 0, None], pa.int64()), "x // 0", [None, None, None]),
    (pa.array([7, 0, None], pa.int64()), "x % (x - x)", [None, None, None]),
    (pa.array([INT_MAX - 1], pa.int64()), "x + 1", [INT_MAX]),
    (pa.array([2**53], pa.int64()), "x + 1 = x", [False]),
    (pa.array([2**53], pa.int64()), "x + 1.0 = x", [True]),
    (pa.array([100_000], pa.int32()), "x * x", [10**10]),
    (pa.array([0], pa.int32()), "100000 * 100000", [10**10]),
    (pa.array([0], pa.int32()), "-9223372036854775808", [INT_MIN]),
    (pa.array([0], pa.int32()), "0.30000000000000004", [0.30000000000000004]),
    (pa.array([0.5, -0.0], pa.float32()), "-x", [-0.5, 0.0]),
    (pa.array([0.1], pa.float32()), "x = 0.1", [False]),
    (pa.array([0.5, 1.5, -0.5, -1.5, 0.49999999999999994, NAN, INF, 2.0**63, BELOW], pa.float64()), "round(x)",
     [1, 2, -1, -2, 0, None, None, None, int(BELOW)]),
    (pa.array([0.5, -0.5, -0.0, NAN, -INF, -(2.0**63)], pa.float64()), "floor(x)", [0, -1, 0, None, None, INT_MIN]),
    (pa.array([0.5, -0.5, 3.0, 1e300, None], pa.float64()), "ceil(x)", [1, 0, 3, None, None]),
    (pa.array([5, None], pa.int16()), "floor(x)", [5, None]),
    (pa.array([1.9, -1.9, NAN, INF, 2.0**63, None], pa.float64()), "cast(x as int)", [1, -1, None, None, None, None]),
    (pa.array([2.0, -2.0, NAN, INF, -INF, None, 0.5], pa.float64()), "clip(x, 0, 1)",
     [1.0, 0.0, NAN, 1.0, 0.0, None, 0.5]),
    (pa.array([-3, 3, None, INT_MAX], pa.int64()), "clip(x, 0, 2)", [0, 2, None, 2]),
    (pa.array([-3, 3, None], pa.int64()), "clip(x, nullif(x, x), 2)", [-3, 2, None]),
    (pa.array([-3, 3, None], pa.int64()), "clip(x, null, 2)", [-3, 2, None]),
    (pa.array([-3.5, 3.5, NAN], pa.float64()), "clip(x, 0, null)", [0.0, 3.5, NAN]),
    (pa.array([-3, None], pa.int64()), "greatest(null, 0) + least(null, 600)", [600, 600]),
    (pa.array(["a", None], pa.string()), "greatest(x, null)", ["a", None]),
    (pa.array([1.0, NAN, None, -0.0, INF], pa.float64()), "greatest(x, 0)", [1.0, NAN, 0.0, -0.0, INF]),
    (pa.array([1.0, NAN, None, -0.0, -INF], pa.float64()), "least(x, 0)", [0.0, 0.0, 0.0, -0.0, -INF]),
    (pa.array(["a", None, "\u00e9"], pa.string()), "greatest(x, 'b')", ["b", "b", "\u00e9"]),
    (pa.array([1.0, NAN, None], pa.float64()), "is_nan(x)", [False, True, None]),
    (pa.array([1.0, NAN, None], pa.float64()), "x is null", [False, False, True]),
    (pa.array([1.0, NAN, None], pa.float64()), "x is not null", [True, True, False]),
    (pa.array([1.0, NAN, None], pa.float64()), "coalesce(x, 2)", [1.0, NAN, 2.0]),
    (pa.array([1.0, NAN, None], pa.float64()), "nullif(x, x)", [None, NAN, None]),
    (pa.array([True, False, None], pa.bool_()), "(x in (true, not x)) = (x = (1 between 1 and 2))", [True, True, None]),
    (pa.array([True, False, None], pa.bool_()), "(x in (true)) is null", [False, False, True]),
    (pa.array([1.0, NAN, None], pa.float64()), "x > 5", [False, None, None]),
    (pa.array([1.0, NAN, None], pa.float64()), "x = x", [True, None, None]),
    (pa.array([0.0, -0.0, 1.0, NAN, None], pa.float64()), "x in (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)",
     [True, True, False, None, None]),
    (pa.array([1, 4, None], pa.int64()), "x not in (1, 2, 3)", [False, True, None]),
    (pa.array([1, 4, None], pa.int64()), "x between 2 and 4", [False, True, None]),
    (pa.array([True, False, None], pa.bool_()), "x and x is not null", [True, False, False]),
    (pa.array([True, False, None], pa.bool_()), "x or 1 = 1", [True, True, True]),
    (pa.array([True, False, None], pa.bool_()), "not x", [False, True, None]),
    (pa.array([True, False, None], pa.bool_()), "x = 1", [True, False, None]),
    (pa.array([True, False, None], pa.bool_()), "cast(x as int) + cast(x as double)", [2.0, 0.0, None]),
    (pa.array([True, False, None], pa.bool_()), "cast(x as string)", ["true", "false", None]),
    (pa.array([True, False, None], pa.bool_()), "if(x, 1, 2.5)", [1.0, 2.5, 2.5]),
    (pa.array([1, 2, None], pa.int64()), "case x when 1 then 'one' when 2 then 'two' else '' end", ["one", "two", ""]),
    (pa.array([1, 2, None], pa.int64()), "case when x = 1 then null else x end", [None, 2, None]),
    (pa.array([1, None], pa.int64()), "coalesce(x, 0.5)", [1.0, 0.5]),
    (pa.array([1, 0, None], pa.int64()), "nullif(x, 0)", [1, None, None]),
    (pa.array([INT_MAX, -3, None], pa.int64()), "abs(x)", [INT_MAX, 3, None]),
    (pa.array([-0.0, -INF, NAN], pa.float64()), "abs(x)", [0.0, INF, NAN]),
    (pa.array(TEXTS, pa.string()), "cast(x as bigint)",
     [None, 12, 12, 5, 0, 7, None, None, None, None, None, None, None, None, None, None]),
    (pa.array(TEXTS, pa.string()), "cast(x as double)",
     [None, 12.0, 12.0, 5.0, -0.0, 7.0, None, 1.5, 1000.0, None, None, None, None, None, None, None]),
    (pa.array(["9" * 19, "-" + "9" * 19, "9223372036854775807"], pa.string()), "cast(x as int)", [None, None, INT_MAX]),
    (pa.array(["1e999", "-1e999", "1e-999", ".5", "5.", "."], pa.string()), "cast(x as float)",
     [None, None, 0.0, 0.5, 5.0, None]),
    (pa.array(["true", " T", "1", "FALSE", "f", "0", "yes", None], pa.string()), "cast(x as boolean)",
     [True, True, True, False, False, False, None, None]),
    (pa.array([INT_MIN, 0, None], pa.int64()), "cast(x as string)", [str(INT_MIN), "0", None]),
    (pa.array([2, 0, None], pa.int64()), "cast(x as boolean)", [True, False, None]),
    (pa.array([2**64 - 1, 5, None], pa.uint64()), "cast(x as bigint)", [None, 5, None]),
    (pa.array([2**64 - 1, 5, None], pa.uint64()), "cast(x as string)", [str(2**64 - 1), "5", None]),
    (pa.array([2**64 - 1, 5, None], pa.uint64()), "cast(x as double)", [2.0**64, 5.0, None]),
    (pa.array([Decimal("12345678901234567.89"), None], pa.decimal128(20, 2)), "cast(x as double)",
     [12345678901234567.89, None]),
    (pa.array(["a\U0001f600\u00e9", "", None], pa.string()), "length(x)", [3, 0, None]),
    (pa.array([["a", None], [], None], pa.list_(pa.string())), "length(x)", [2, 0, None]),
    (pa.array(["aB\u00c9\u00df\u0130", "@AZ[`az{09 \n", "", None], pa.string()), "lower(x)",
     ["ab\u00c9\u00df\u0130", "@az[`az{09 \n", "", None]),
    (pa.array(["aB\u00e9\u00df", "@AZ[`az{09", None], pa.string()), "upper(x)", ["AB\u00e9\u00df", "@AZ[`AZ{09", None]),
    (pa.array([" \t a b\r\n", "\u00a0a", None], pa.string()), "trim(x)", ["a b", "\u00a0a", None]),
    (pa.array(["a", None], pa.string()), "x || '-' || 3", ["a-3", None]),
    (pa.array([3, None], pa.int32()), "concat(x, true, 'a')", ["3truea", None]),
    (pa.array(["a\U0001f600cde", "a", None], pa.string()), "substr(x, 2)", ["\U0001f600cde", "", None]),
    (pa.array(["a\U0001f600cde", "a", None], pa.string()), "substr(x, 2, 2)", ["\U0001f600c", "", None]),
    (pa.array(["aaa", "", None], pa.string()), "replace(x, 'aa', 'b')", ["ba", "", None]),
    (pa.array(["a.b", "ab", "", None], pa.string()), "starts_with(x, 'a.')", [True, False, False, None]),
    (pa.array(["a%b", "ab", "", None], pa.string()), "contains(x, '%')", [True, False, False, None]),
    (pa.array(["1,2,,3", ",", "", None, "a"], pa.string()), "split(x, ',')", [["1", "2", "3"], [], [], None, ["a"]]),
    (pa.array(["a|b.c", "a||b", "\\|"], pa.string()), "split(x, '|')", [["a", "b.c"], ["a", "b"], ["\\"]]),
    (pa.array(["a.*b", "ab"], pa.string()), "split(x, '.*')", [["a", "b"], ["ab"]]),
    (pa.array(["['a b' 'c'\n 'd']", "[]", None], pa.string()),
     "split(replace(replace(replace(replace(x, '\n', ''), '[', ''), ']', ''), ''' ''', ''''''), '''')",
     [["a b", "c", "d"], [], None]),
    (pa.array(["${x}", "it's"], pa.string()), "x = '${x}'", [True, False]),
    (pa.array(["a"], pa.string()), "'it''s ${spark.app.name}${a} \\n \\ % \n'",
     ["it's ${spark.app.name}${a} \\n \\ % \n"]),
    (pa.array(["a", "B", "\U0001f600", "\uffff"], pa.string()), "x > 'Z'", [True, False, True, True]),
    (pa.array(ISO, pa.string()), "days(x, '2024-02-28')", ISO_DAYS),
    (pa.array(ISO, pa.string()), "date(x)", [None if day is None else date(2024, 2, 28) + timedelta(math.floor(day))
                                             for day in ISO_DAYS]),
    (pa.array(DATES, pa.date32()), "days(x, '1970-01-01')", [0.0, -25567.0, None, 376199.0, None, 19782.0]),
    (pa.array(DATES, pa.date32()), "weekday(x)", [3, 0, None, 1, None, 3]),
    (pa.array(DATES, pa.date32()), "month(x)", [1, 1, None, 12, None, 2]),
    (pa.array(DATES, pa.date32()), "x", DATES),
    (pa.array(DATES, pa.date32()), "cast(x as string)", [None if day is None else day.isoformat() for day in DATES]),
    (pa.array(DATES, pa.date32()), "x >= '2024-02-29'", [False, False, None, True, None, True]),
    (pa.array(DATES, pa.date32()), "x in ('1970-01-01', date('2024-02-29'))", [True, False, None, False, None, True]),
    *((pa.array(ENDLESS_DATES, pa.int32()).cast(pa.date32()), text, [None, None, None, expected])
      for text, expected in {"weekday(x)": 3, "days(x, '1970-01-01')": 0.0, "x > '1969-01-01'": True,
                             "cast(x as string)": "1970-01-01"}.items()),
    *((pa.array(ENDLESS_TIMES, pa.int64()).cast(pa.timestamp("us", zone)), text, [None, None, None, None, expected])
      for zone in (None, "UTC")
      for text, expected in {"weekday(x)": 3, "hours(x, '1970-01-01')": 0.0, "x > '1969-01-01'": True,
                             "cast(date(x) as string)": "1970-01-01"}.items()),
    (pa.array(DATES, pa.date32()), "coalesce(x, date('2024-01-02')) is null", [False] * 6),
    (pa.array(MOMENTS, pa.timestamp("us")), "hours(x, '2024-02-29T00:00Z')",
     [0.0, 1e-6 / 3600 * -1, None, 24 - 1e-6 / 3600]),
    (pa.array(MOMENTS, pa.timestamp("us", "Asia/Shanghai")), "hour(x)", [0, 23, None, 23]),
    (pa.array(MOMENTS, pa.timestamp("us", "Asia/Shanghai")), "date(x)",
     [None if moment is None else moment.date() for moment in MOMENTS]),
    (pa.array(MOMENTS, pa.timestamp("us", "Asia/Shanghai")), "x = '2024-02-29 08:00+08:00'",
     [True, False, None, False]),
    (pa.array(MOMENTS, pa.timestamp("ms")), "x between '2024-02-29' and '2024-02-29 12:00'",
     [True, False, None, False]),
    (pa.array([0, -1, 1_709_164_800_123_456_789, INT_MIN, None], pa.int64()), "hours(timestamp(x, 'ns'), '1970-01-01')",
     [0.0, -1e-6 / 3600, 1_709_164_800_123_456 / 3.6e9, None, None]),
    (pa.array([0, -1, 32_503_680_000, -2_208_988_800, INT_MAX, None], pa.int64()), "date(timestamp(x, 's'))",
     [date(1970, 1, 1), date(1969, 12, 31), None, date(1900, 1, 1), None, None]),
    (pa.array([0, -1, INT_MAX], pa.int64()), "weekday(timestamp(x, 'ms'))", [3, 2, None]),
    (pa.array([0, -1, INT_MAX], pa.int64()), "hour(timestamp(x, 'us'))", [0, 23, None]),
    (pa.array(PRICES, pa.decimal128(38, 2)), "units(x, '0.01')", [150, -5, 0, INT_MAX, None, None, 700]),
    (pa.array(PRICES, pa.decimal128(38, 2)), "units(x, '0.1')", [15, None, 0, None, None, None, 70]),
    (pa.array(PRICES, pa.decimal128(38, 2)), "units(x, '0.0001')", [15000, -500, 0, None, None, None, 70000]),
    (pa.array(PRICES, pa.decimal128(38, 2)), "cast(x as int)", [1, 0, 0, INT_MAX // 100, 10**18, None, 7]),
    (pa.array(PRICES, pa.decimal128(38, 2)), "cast(x as double)",
     [1.5, -0.05, 0.0, INT_MAX / 100, 1e18, None, 7.0]),
    (pa.array(PRICES, pa.decimal128(38, 2)), "x + 1 > 2", [True, False, False, True, True, None, True]),
    (pa.array([100, -300, 150, 0, INT_MIN, None], pa.int64()), "units(x, '100')", [1, -3, None, 0, None, None]),
    (pa.array([5, INT_MAX, INT_MIN, None], pa.int64()), "units(x, '1')", [5, INT_MAX, INT_MIN, None]),
    (pa.array([5, INT_MAX, -5], pa.int64()), "units(x, '0.1')", [50, None, -50]),
    (pa.array(NUMBER_TEXTS, pa.string()), "units(x, '0.01')", [150, -150, 50, 500, None, None, None, None, 1200, None]),
    (pa.array([[1, None, 3], [], None, [4]], pa.list_(pa.int32())), "element(x, 3)", [3, None, None, None]),
    (pa.array([[1, None, 3], [], None, [4]], pa.list_(pa.int32())), "element(x, length(x))", [3, None, None, 4]),
    (pa.array([[1, None, 3], [], None, [4]], pa.list_(pa.int32())), "element(x, -1)", [None, None, None, None]),
    (pa.array([["a"], ["b", "a"]], pa.list_(pa.string())), "element(x, 1)", ["a", "b"]),
    (pa.array([[1, None, 3], [], None, [None]], pa.list_(pa.int32())), "contains(x, 3)", [True, False, None, False]),
    (pa.array([[1, None, 3], [], None, [4]], pa.list_(pa.int32())), "contains(x, nullif(1, 1))", [None] * 4),
    (pa.array([[1, None, 3], [], None, [4]], pa.list_(pa.int32())), "contains(x, 4.5)", [False, False, None, False]),
    (pa.array([[0.0, NAN], [], None, [-0.0]], pa.list_(pa.float32())), "contains(x, 0)", [True, False, None, True]),
    (pa.array([[NAN], [1.0], None], pa.list_(pa.float64())), "contains(x, element(x, 1))", [None, True, None]),
    (pa.array([["a", "b"], [], None], pa.list_(pa.string())), "contains(x, 'b')", [True, False, None]),
    (pa.array(["a,b", "", None], pa.string()), "contains(split(x, ','), 'b')", [True, False, None]),
]  # fmt: skip


def test_what_comes_of_each_form(engine: Engine) -> None:
    rows = max(len(values) for _, _, values in CASES)
    table, expressions = {}, []
    for i, (x, text, _) in enumerate(CASES):
        table[f"x{i}"] = pa.concat_arrays([x, pa.nulls(rows - len(x), x.type)])
        expressions.append((text, {"x": f"x{i}"}))
    found = {
        (text, str(x.type)): (values, got.to_pylist()[: len(values)])
        for (x, text, values), got in zip(CASES, engine.values(pa.table(table), expressions).columns, strict=True)
    }
    assert len(found) > 70
    assert not {key: pair for key, pair in found.items() if not same(*pair)}


# A call of every function, and of every form that gives a value of a type of its own.
TYPES = {
    "int64": "k; k + 1; k - k; k * 2; -k; k // 2; k % 2; abs(k); ceil(h); floor(f); round(h); cast(s as int); "
    "cast(f as int); cast(b as int); case when b then k end; clip(k, 0, null); coalesce(k, 1); greatest(k, 1); "
    "least(k, i); if(b, 1, 2); nullif(k, 0); length(s); length(l); length(split(s, ',')); length(split(s, '|')); "
    "cast(p as int); units(p, '0.01'); units(s, '10'); units(k, '1'); hour(m); hour(s); weekday(d); month(z); "
    "element(o, i); cast(json(s, '$.a') as int)",
    "float64": "h; -h; h * k; k / k; abs(h); clip(h, 0, 1); coalesce(h, k); greatest(h, 1); cast(k as double); "
    "cast(s as double); cast(b as double); if(b, h, k); nullif(h, 0); p; days(d, s); hours(m, z); "
    "cast(json(s, '$.a') as double)",
    "string": "s; s || k; concat(k, s); lower(s); upper(s); trim(s); replace(s, 'a', 'b'); substr(s, 1, 2); "
    "cast(k as string); cast(b as string); least(s, 'a'); cast(d as string); element(l, 1); "
    "json(s, '$.a'); cast(json(s, '$.a') as string)",
    "boolean": "b; not b; b and b; k = 1; h in (1, 2); k between 0 and 1; h is null; is_nan(h); contains(s, 'a'); "
    "starts_with(s, 'a'); cast(k as boolean); cast(s as boolean); contains(l, s); contains(o, h); m > d; "
    "cast(json(s, '$.a') as boolean)",
    "date": "d; date(d); date(m); date(s); coalesce(d, date(z))",
    "timestamp('UTC')": "z; timestamp(k, 'ms'); timestamp(i, 'ns'); coalesce(m, z)",
    "array<string>": "l; split(s, ','); split(s, '|'); split(l, ',')",
}


def test_every_form_has_the_type_that_it_says(engine: Engine) -> None:
    """Else a result that an engine writes would have another type than one that it computes on the way."""
    texts = [text for some in TYPES.values() for text in some.split("; ")]
    assert set(re.findall(r"(\w+)\(", " ".join(texts))) - {"cast", "in"} == set(FUNCTIONS)
    table = pa.table({name: pa.nulls(2, kind) for name, kind in COLUMNS.items()})
    names = {name: name for name in table.column_names}
    found = engine.values(table, [(text, names) for text in texts]).schema.types
    said = [ibis.dtype(kind).to_pyarrow() for kind, some in TYPES.items() for _ in some.split("; ")]
    plain = [pa.list_(kind.value_type) if pa.types.is_list(kind) else kind for kind in found]
    assert dict(zip(texts, plain, strict=True)) == dict(zip(texts, said, strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (INT_MAX, "x + 1"),
        (INT_MIN, "x - 1"),
        (INT_MAX, "x * 2"),
        (INT_MIN, "-x"),
        (INT_MIN, "abs(x)"),
        (INT_MIN, "x // -1"),
    ],
)
def test_an_integer_beyond_int64_stops_the_engine(engine: Engine, value: int, text: str) -> None:
    table = pa.table({"x": pa.array([1, value], pa.int64())})
    with pytest.raises(engine.overflow) as stopped:
        engine.values(table, [(text, {"x": "x"})])
    assert is_overflow(stopped.value)
    assert not is_overflow(ValueError("Out of range"))


def test_the_deepest_and_the_widest_expressions_run(engine: Engine) -> None:
    texts = [
        " + ".join(["x"] * (MAX_DEPTH - 2)),
        "abs(" * 25 + "x" + ")" * 25,
        " and ".join(["x > 0"] * (MAX_DEPTH - 2)),
        "if(x > 1, 1, " * 25 + "x" + ")" * 25,
        f"x in ({', '.join(map(str, range(2000)))})",
    ]
    table = pa.table({"x": pa.array([1, None, 5000], pa.int64())})
    deep = MAX_DEPTH - 2
    expected = [[deep, None, 5000 * deep], [1, None, 5000], [True, None, True], [1, None, 1], [True, None, False]]
    result = engine.values(table, [(text, {"x": "x"}) for text in texts])
    assert [values.to_pylist() for values in result.columns] == expected


# Random expressions. Integers stay small where they are computed with: what overflows stops a query, see above.
COLUMNS = {
    "i": pa.int64(),
    "j": pa.int64(),
    "k": pa.int8(),
    "f": pa.float64(),
    "g": pa.float64(),
    "h": pa.float32(),
    "b": pa.bool_(),
    "c": pa.bool_(),
    "s": pa.string(),
    "t": pa.string(),
    "d": pa.date32(),
    "m": pa.timestamp("us"),
    "z": pa.timestamp("us", "UTC"),
    "p": pa.decimal128(20, 4),
    "l": pa.list_(pa.string()),
    "o": pa.list_(pa.int32()),
}
_edges = st.sampled_from([INT_MIN, INT_MIN + 1, -1, 0, 1, 2, 2**53 + 1, INT_MAX - 1, INT_MAX])
_floats = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, NAN, INF, -INF, 0.5, -0.5, 2.5, 2.0**63, BELOW, 5e-324, 1e308])
)
_letters = st.text("aAbZz0179 .,|+-eE\\$%_'\n\t\u00e9\u0130\u00df\U0001f600", max_size=6)
_values: dict[str, st.SearchStrategy[Any]] = {
    "i": _edges | st.integers(INT_MIN, INT_MAX),
    "j": _edges | st.integers(-10, 10),
    "k": st.integers(-128, 127),
    "f": _floats,
    "g": _floats,
    "h": st.floats(width=32),
    "b": st.booleans(),
    "c": st.booleans(),
    "s": _letters,
    "t": _letters | st.sampled_from(["12", "-7", "1e3", "true", "0", "9223372036854775807", "a,b,,c"]),
}
_moments = st.datetimes(datetime(1890, 1, 1), datetime(3010, 1, 1))
_values |= {
    "t": _values["t"] | st.dates().map(str) | _moments.map(str) | _moments.map(lambda moment: f"{moment}+05:30"),
    "d": st.dates(date(1890, 1, 1), date(3010, 1, 1)),
    "m": _moments,
    "z": _moments,
    "p": st.decimals(-(10**12), 10**12, places=4) | st.decimals(-10, 10, places=4),
    "l": st.lists(st.none() | st.sampled_from(["", "a", "12", "b"]), max_size=4),
    "o": st.lists(st.none() | st.integers(-3, 3), max_size=4),
}
_rows = st.lists(st.fixed_dictionaries({name: st.none() | made for name, made in _values.items()}), min_size=1)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _forms(kind: str, deeper: Mapping[str, st.SearchStrategy[str]]) -> list[st.SearchStrategy[str]]:
    """Strategies of the forms that give a value of a kind, from values of less depth."""
    n, f, s, b = deeper["int"], deeper["float"], deeper["str"], deeper["bool"]
    time = st.sampled_from(["d", "m", "z", "t", "'2024-02-29T12:00'", "timestamp(i, 'ms')", "date(t)", "date(m)"])
    number, same_kind = n | f, {"int": n, "float": f, "str": s, "bool": b}[kind]
    fill = st.builds
    common = [
        fill("if({}, {}, {})".format, b, same_kind, same_kind),
        fill("case when {} then {} when {} then {} end".format, b, same_kind, b, same_kind),
        fill("coalesce({}, {})".format, same_kind, same_kind),
        fill("nullif({}, {})".format, same_kind, same_kind),
    ]
    if kind != "bool":
        common += [fill(f"{name}({{}}, {{}})".format, same_kind, same_kind) for name in ("least", "greatest")]
    forms = {
        "int": [
            fill("({0} % 1000) {2} ({1} % 1000)".format, n, n, st.sampled_from("+-*")),
            fill("({} {} nullif({}, -1))".format, n, st.sampled_from(["//", "%"]), n),
            fill("{}({})".format, st.sampled_from(["floor", "ceil", "round"]), number),
            fill("{}({} % 100)".format, st.sampled_from(["-", "abs"]), n),
            fill("clip({}, {}, {})".format, n, n, n),
            fill("cast({} as int)".format, number | s | b),
            fill("length({})".format, s),
            fill("{}({})".format, st.sampled_from(["weekday", "hour", "month"]), time),
            fill(
                "units({}, {})".format,
                st.sampled_from(["p", "t", "i", "k"]),
                st.sampled_from(["'0.01'", "'1'", "'10'"]),
            ),
            fill("element(o, {})".format, n),
            st.just("cast(p as int)"),
            fill("length(split({}, {}))".format, s, st.sampled_from(["','", "'.'", "'a'", "'||'", "'\\'"])),
        ],
        "float": [
            fill("({} {} {})".format, f, st.sampled_from(["+", "-", "*", "/"]), number),
            fill("({} / {})".format, number, number),
            fill("{}({})".format, st.sampled_from(["-", "abs"]), f),
            fill("clip({}, {}, {})".format, number, f, number),
            fill("{}({}, {})".format, st.sampled_from(["days", "hours"]), time, time),
            st.just("p"),
            fill("cast({} as double)".format, number | s | b),
        ],
        "str": [
            fill("({} || {})".format, s, s | n | b),
            fill("{}({})".format, st.sampled_from(["lower", "upper", "trim"]), s),
            fill("element(l, {})".format, n),
            fill("cast({} as string)".format, st.sampled_from(["date(t)", "date(z)"])),
            fill("substr({}, {}, {})".format, s, st.integers(1, 5), st.integers(1, 5)),
            fill("replace({}, {}, {})".format, s, st.sampled_from(["'a'", "','", "'e1'"]), s),
            fill("cast({} as string)".format, n | b),
        ],
        "bool": [
            fill("({} {} {})".format, b, st.sampled_from(["and", "or", "=", "<>"]), b),
            fill("({} {} {})".format, number, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), number),
            fill("({} {} {})".format, s, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), s),
            fill("(not {})".format, b),
            fill("({} is {}null)".format, number | s | b, st.sampled_from(["", "not "])),
            fill("({} {}between {} and {})".format, number, st.sampled_from(["", "not "]), number, number),
            fill("({} {}in ({}, {}))".format, number, st.sampled_from(["", "not "]), number, number),
            fill("({0} in ({1}, {1}))".format, s, s),
            fill("({0} in ({1}, {2}))".format, b, b, b),
            fill("({} = {})".format, b, n),
            fill("{}({}, {})".format, st.sampled_from(["contains", "starts_with"]), s, s),
            fill("is_nan({})".format, f),
            fill("contains(o, {})".format, number),
            fill("contains(l, {})".format, s),
            fill("({} {} {})".format, st.sampled_from(["d", "m", "z"]), st.sampled_from(["=", "<", ">="]), time),
            fill("cast({} as boolean)".format, n | s),
        ],
    }
    return common + forms[kind]


def _expressions(depth: int) -> dict[str, st.SearchStrategy[str]]:
    leaves: dict[str, st.SearchStrategy[str]] = {
        "int": st.sampled_from("ijk") | _edges.map(str) | st.integers(-9, 9).map(str),
        "float": st.sampled_from("fgh") | st.floats(allow_nan=False, allow_infinity=False).map(repr),
        "str": st.sampled_from("st") | _letters.map(_text),
        "bool": st.sampled_from(["b", "c", "true", "false"]),
    }
    if depth == 0:
        return leaves
    deeper = _expressions(depth - 1)
    return {kind: leaf | st.one_of(_forms(kind, deeper)) for kind, leaf in leaves.items()}


@pytest.mark.spark
@pytest.mark.slow
@settings(
    max_examples=8,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # to shrink would take a query of Spark for each step
    suppress_health_check=list(HealthCheck),
)
@given(rows=_rows, texts=st.lists(st.one_of(*_expressions(2).values()), min_size=25, max_size=25))
def test_random_expressions_are_equal_on_both_engines(
    duck: OnDuckDB, spark: OnSpark, rows: list[dict[str, Any]], texts: list[str]
) -> None:
    table = pa.table({name: pa.array([row[name] for row in rows], dtype) for name, dtype in COLUMNS.items()})
    names = {name: name for name in COLUMNS}
    found = [engine.values(table, [(text, names) for text in texts]).to_pydict() for engine in (duck, spark)]
    pairs = zip(texts, found[0].values(), found[1].values(), strict=True)
    assert not [(text, a, b) for text, a, b in pairs if not same(a, b)]


@pytest.mark.spark
@pytest.mark.slow
@settings(
    max_examples=3,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(documents=st.lists(json_texts() | st.none(), min_size=100, max_size=300))
def test_json_texts_are_read_equally_on_both_engines(
    duck: OnDuckDB, spark: OnSpark, documents: list[str | None]
) -> None:
    table = pa.table({"d": [*DOCUMENTS, *documents]})
    bound = [(text, {"d": "d"}) for path in PATHS for text in expressions_at(path).values()]
    bound.append(("cast(json(json(d, '$.a'), '$.b') as double) is null and json(d, '$.a') <> 'x'", {"d": "d"}))
    results = [engine.values(table, bound).to_pydict() for engine in (duck, spark)]
    pairs = zip(bound, results[0].values(), results[1].values(), strict=True)
    assert not [(text, a, b) for (text, _), a, b in pairs if not same(a, b)]
    assert sum(value is not None for values in results[1].values() for value in values) > 30
