"""DuckDB and a real local Spark write the same bytes, file by file.

All fast tests on Spark are here, so that one process starts one JVM for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.engines.spark import SparkEngine
from data_prep.run import EngineName, Options, prepare
from data_prep.sources.files import POSITION, discover
from ple_rec.config.prep import FilesConfig
from ple_rec.errors import UserError
from tests.data_prep import oracle_logs, rate_logs
from tests.data_prep.engines.callers_spark import assert_active, callers_session
from tests.data_prep.feed_logs import digests, hashed_as_python, read, write_logs, write_toml
from tests.data_prep.oracle_logs import BY_RATES, HASHED, RATES, random_rows
from tests.data_prep.plain_logs import DAY_ROWS, SIDE, TOML, Logs, day_of, with_column
from tests.data_prep.rate_logs import random_log
from tests.data_prep.vector_logs import vector_logs

RICH = (
    # A table without room for all, whose other values are hashed; training rows that are left out; a dated side table.
    ("capacity = 100", 'capacity = 40\noverflow = "hash"\nhash_rows = 8'),
    (
        "[sides.users]",
        '[sides.videos]\nfiles = ["videos.parquet"]\non = {video_id = "video_id"}\nday = "day"\n\n[sides.users]',
    ),
    ("[[dense]]", '[[sparse]]\nname = "video_state"\nvalue = "videos.state"\n\n[[dense]]'),
    (
        '[[sparse]]\nname = "user_id"',
        '[sampling]\nkeep = "is_click = 1"\nrate = 0.5\nhash = ["user_id", "video_id", "time_ms"]\n\n'
        '[[sparse]]\nname = "user_id"',
    ),
    (
        '[[tasks]]\nname = "share"',
        '[[tasks]]\nname = "long_click"\nkind = "binary"\nlabel = "play_time_ms > threshold"\nspace = "is_click = 1"\n'
        'threshold = {value = "play_time_ms", quantile = 0.6, by = "duration_ms", bins = 3}\n\n'
        '[[tasks]]\nname = "share"',
    ),
    # A group of texts, which is hashed, divided by day and tab, and a bag that is cut from a text and shares the table
    # of a text.
    ('group = "user_id"', 'group = ["concat(\'user \', user_id)", "time.day", "tab"]'),
    (
        '[[sparse]]\nname = "age"',
        "[[sparse]]\nname = \"seen\"\nvalue = \"split(concat(video_id, '|', video_id, '|v0'), '|')\"\n"
        'table = "video"\nbag = true\n\n[[sparse]]\nname = "age"',
    ),
    ('[split]\nby = "day"\ntrain = [1, 2]\nvalid = [3, 3]', '[split]\nby = "day"\ntrain = [1, 3]\nvalid_share = 0.4'),
)


def write_videos(root: Path) -> None:
    """States of videos on the days from which they hold: before the log, on its second and on its fourth day."""
    first = date(2022, 4, 15)
    rows = [
        {"video_id": f"v{i}", "day": first + timedelta(days), "state": f"s{(i + days) % 5}"}
        for i in range(30)
        for days in ((-3, 1, 3) if i % 2 else (-3,))
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "videos.parquet")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("engines")
    write_logs(root / "raw [1]")  # a name that is a pattern to some readers
    write_videos(root / "raw [1]")
    toml = write_toml(root / "feed.toml", *RICH)
    done: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in done:
            done[name] = root / name
            engine: EngineName = "spark" if name.startswith("spark") else "duckdb"
            prepare(str(toml), done[name], Options(source=str(root / "raw [1]"), engine=engine, threads=2))
        return done[name]

    return folder


LEAN = (
    # What engines compute in their own ways, on five columns: hashes of texts, samples, a side table, bags.
    ('group = "user_id"', 'group = ["user_id", "time.day"]'),
    ("train = [1, 2]\nvalid = [3, 3]", "train = [1, 3]\nvalid_share = 0.4"),
    (
        "[checks]",
        '[sampling]\nkeep = "is_like = 1"\nrate = 0.5\nhash = ["video_id", "time_ms"]\n\n'
        '[tables.video_id]\ncapacity = 6\noverflow = "hash"\nhash_rows = 2\n\n'
        '[carry]\npieces = "length(split(video_id, \'v\'))"\ncents = "round(price * 100)"\n'
        "since = \"days(time, '2022-04-01 12:00')\"\n"
        'on = "cast(date(time) as string)"\n\n[checks]',
    ),
    (
        "[[dense]]",
        "[[sparse]]\nname = \"seen\"\nvalue = \"split(concat(video_id, '|v0'), '|')\"\n"
        'table = "video_id"\nbag = true\n\n[[sparse]]\nname = "serial"\n\n[[dense]]',
    ),
)


@pytest.mark.spark
def test_both_engines_write_the_same_bytes(tmp_path: Path) -> None:
    text = TOML + SIDE
    for old, new in LEAN:
        assert old in text, old
        text = text.replace(old, new)
    text = text.replace("[carry]", "[carry]\nexact = \"units(price, '0.01')\"")  # The price is a decimal here.
    logs = [Logs(tmp_path / name, text) for name in ("duckdb", "spark")]
    for each in logs:
        each.users([{"user_id": i, "age": f"a{i % 3}"} for i in range(6)])
        odd = day_of(1)
        for name in ("_metadata", "file_row_number"):  # which Spark and DuckDB give files themselves
            odd = odd.append_column(name, pa.array([{"row_index": 1}] * DAY_ROWS))
        each.write(1, odd)
        each.spoil(4, "user_id", {0: None, 1: -1, 2: None, 3: -1})  # each of these stands alone
        for day in range(1, 5):
            table = pq.read_table(each.file(day))
            price = pc.cast(table["price"], pa.decimal128(10, 2))
            table = table.set_column(table.column_names.index("price"), "price", price)
            serial = pc.cast(table["user_id"], pa.decimal128(20, 0))
            each.write(day, table.append_column("serial", serial))
    logs[0].prepare()
    logs[1].prepare(engine="spark")
    found = [digests(each.out) for each in logs]
    assert found[0] == found[1]
    assert {"train/part-00000.parquet", "vocab/video_id.parquet", "vocab/age.parquet"} <= found[0].keys()
    assert read(logs[1].out, "train").num_rows > 20


@pytest.mark.spark
@pytest.mark.slow
def test_both_engines_write_the_same_bytes_of_every_kind_of_column(prepared: Callable[[str], Path]) -> None:
    duckdb, spark = digests(prepared("duckdb")), digests(prepared("spark"))
    assert duckdb == spark
    assert len(duckdb) > 15
    assert read(prepared("spark"), "train").num_rows > 300


@pytest.mark.spark
@pytest.mark.slow
def test_spark_writes_the_same_bytes_again(prepared: Callable[[str], Path]) -> None:
    assert digests(prepared("spark again")) == digests(prepared("spark"))


def test_a_dated_side_table_gives_the_state_of_the_day(prepared: Callable[[str], Path]) -> None:
    folder = prepared("duckdb")
    states = {row["row"]: row["raw"] for row in pq.read_table(folder / "vocab/video_state.parquet").to_pylist()}
    videos = {row["row"]: row["raw"] for row in pq.read_table(folder / "vocab/video.parquet").to_pylist()}
    checked = 0
    for row in read(folder, "train").to_pylist():
        video = videos.get(row["video_id"])
        if video is None or int(video[1:]) >= 30:
            continue
        number, day = int(video[1:]), row["log_day"] - (date(2022, 4, 15) - date(1970, 1, 1)).days
        since = 1 if number % 2 and day >= 1 else -3
        assert states.get(row["video_state"]) == f"s{(number + since) % 5}"
        checked += 1
    assert checked > 100


def test_overflowing_values_are_hashed_as_python_would(prepared: Callable[[str], Path]) -> None:
    folder = prepared("duckdb")
    known = set(pq.read_table(folder / "vocab/video.parquet")["raw"].to_pylist())
    assert len(known) == 40 - 8 - 1
    raw = [row["video_id"] for row in read_raw(folder.parent / "raw [1]") if row["day"] == 4]
    expected = [hashed_as_python(video, 40, 8) for video in raw if video not in known]
    found = []
    for split in ("valid", "test"):
        found += [row for row in read(folder, split)["video_id"].to_pylist() if row >= 32]
    assert sorted(found) == sorted(expected)
    assert len(set(found)) > 1


def read_raw(root: Path) -> list[dict[str, Any]]:
    rows = []
    for day in range(1, 5):
        (file,) = root.glob(f"log/*/day {day}.parquet")
        rows += [row | {"day": day} for row in pq.ParquetFile(file).read().to_pylist()]
    return rows


def test_sampled_rows_weigh_what_they_stand_for(prepared: Callable[[str], Path]) -> None:
    folder = prepared("duckdb")
    raw = [row for row in read_raw(folder.parent / "raw [1]") if row["day"] != 4]
    train = read(folder, "train")
    weights = train["sample_weight"].to_pylist()
    assert set(weights) == {1.0, 2.0}
    assert weights.count(1.0) == sum(row["is_click"] == 1 for row in raw)
    assert sum(weights) == pytest.approx(len(raw), rel=0.1)
    assert set(read(folder, "test")["sample_weight"].to_pylist()) == {1.0}


@pytest.mark.spark
def test_a_run_that_spark_refuses_names_the_place_and_leaves_the_session_of_the_caller(tmp_path: Path) -> None:
    """Text that is not UTF-8, of which Spark thinks nothing by itself; and another master than that of the session."""
    logs = Logs(tmp_path)
    texts = pa.array([b"v\xff1" if i == 14 else b"v1" for i in range(DAY_ROWS)], pa.binary())
    videos = pa.Array.from_buffers(pa.string(), DAY_ROWS, texts.buffers())
    logs.write(2, with_column(day_of(2), "video_id", videos))
    near = discover("log", FilesConfig(files=("log",)), logs.raw, tmp_path / "staging")
    far = tuple(replace(file, path=f"s3://bucket/{file.display_name}") for file in near.files[2:])
    with callers_session(tmp_path / "warehouse") as session:
        session.createDataFrame([(1,)], "x int")
        said = logs.refusal(engine="spark")
        assert_active(session)
        engine = SparkEngine(tmp_path / "work")
        rows = engine.scan(replace(near, files=(*near.files[:2], *far)), ["user_id", "price"], 3, 90)
        assert list(rows.columns) == ["user_id", "price", POSITION]  # computed of none: `test_engines_remote` does that
        engine.close()
        assert_active(session)
        with pytest.raises(UserError, match=r"^prep --master local\[3\]: a Spark session of local\[1\] is open"):
            SparkEngine(tmp_path, master="local[3]")
    assert said.startswith("log/day 2.parquet, row group 1, column 'video_id', row 4: got b'v\\xff1'; text is UTF-8")


@pytest.mark.spark
def test_both_engines_write_the_same_bytes_of_vectors(tmp_path: Path) -> None:
    logs = vector_logs(tmp_path)
    logs.prepare()
    prepare(str(logs.toml), tmp_path / "spark", Options(source=str(logs.raw), engine="spark"))
    assert digests(tmp_path / "spark") == digests(logs.out)


@pytest.mark.spark
def test_both_engines_write_the_same_bytes_of_rates(tmp_path: Path) -> None:
    engines: tuple[EngineName, ...] = ("duckdb", "spark")
    folders = [rate_logs.prepared(tmp_path / name, random_log(5, rows=12), engine=name) for name in engines]
    assert digests(folders[0]) == digests(folders[1])
    assert "rates/by_video_id.parquet" in digests(folders[0])


@pytest.mark.spark
@pytest.mark.parametrize(
    ("unit", "overrides"),
    [
        ("ms", (HASHED,)),
        pytest.param("ms", (RATES, BY_RATES), marks=pytest.mark.slow),
        pytest.param("date", (), marks=pytest.mark.slow),
    ],
)
def test_both_engines_write_the_same_bytes_of_histories(tmp_path: Path, unit: str, overrides: tuple[str, ...]) -> None:
    folders = [
        oracle_logs.prepared(tmp_path / engine, random_rows(3), unit, engine=engine, overrides=overrides)
        for engine in ("duckdb", "spark")
    ]
    assert digests(folders[0]) == digests(folders[1])
    assert "histories/liked/video_id.npy" in digests(folders[0])
    assert "histories/seen.parquet" in digests(folders[0])


@pytest.mark.spark
@pytest.mark.slow
def test_spark_carries_the_length_of_a_list_over_parts_of_several_splits(tmp_path: Path) -> None:
    """Runs of such parts are united, which takes columns of equal types."""
    carry = "\n[carry]\npieces = \"length(split(video_id, 'v'))\"\n"
    logs = [Logs(tmp_path / name, TOML + carry) for name in ("duckdb", "spark")]
    overrides = ('split={by="hash", value="user_id", valid=0.3, test=0.3}', "output.part_rows=10")
    logs[0].prepare(*overrides)
    logs[1].prepare(*overrides, engine="spark")
    assert digests(logs[0].out) == digests(logs[1].out)
