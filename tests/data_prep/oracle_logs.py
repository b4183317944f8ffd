"""Random logs with histories of several kinds, and an oracle that makes the histories row by row, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from data_prep.run import Options, prepare
from ple_rec.config.base import SPLITS
from ple_rec.config.load import load_schema
from tests.data_prep.feed_logs import read

DAY_1 = 19_000  # 2022-01-08
LAST_DAY = 4  # Last day that the split of `TOML` names.
DAY_SECONDS = 86_400
OFFSET_MS = 8 * 3_600_000  # Local time minus UTC; the oracle has local times.
TOML = """
name = "histories"
on_bad_row = "drop"
max_bad_fraction = 0.9

[log]
files = ["log"]
where = "is_kept = 1"

[sides.videos]
files = ["videos.parquet"]
on = {video_id = "video_id"}

[time]
value = "time"
unit = "UNIT"
utc_offset = "OFFSET"

[split]
by = "day"
train = [2, 2]
valid = [3, 3]
test = [4, 4]
day_1 = "2022-01-08"

[checks]
good = "is_bad = 0"

[[sparse]]
name = "user_id"

[[sparse]]
name = "video_id"

[[sparse]]
name = "author"
value = "videos.author"

[[sparse]]
name = "price"
edges = [1.0, 2.0]

[[histories]]
name = "liked"
key = "user_id"
items = ["video_id", "author", "price"]
where = "is_like = 1"
length = 3

[[histories]]
name = "seen"
key = "videos.author"
items = ["user_id"]
length = 2
delay = "DELAY"

[[tasks]]
name = "like"
kind = "binary"
label = "is_like > 0"
space = "is_like is not null"

[carry]
row = "row"
"""
# Settings: a rate of videos, a history of events with such a rate, and videos whose ids are partly hashed.
RATES = 'rates=[{name="shown", key=["video_id"], window="1d"}]'
BY_RATES = "histories[0].where=by_video_id.shown_count > 3"
HASHED = 'tables.video_id={capacity=4, overflow="hash", hash_rows=2}'
AUTHORS = {"v0": "a0", "v1": "a1", "v2": "a0"}  # The side table lacks `v3`.
Row = dict[str, Any]
Event = tuple[int, *tuple[Any, ...]]  # Age in seconds and the raw values of the items.


@dataclass(frozen=True)
class History:
    """History of the oracle; `key`, `items` and `is_event` are functions of a row."""

    name: str
    key: Callable[[Row], Any]
    items: Callable[[Row], tuple[Any, ...]]
    is_event: Callable[[Row], bool]
    length: int
    delay: int = 0  # Seconds.


def histories_of_toml(unit: str) -> list[History]:
    """Return the histories of `TOML`."""
    return [
        History(
            "liked",
            lambda row: row["user_id"],
            lambda row: (row["video_id"], AUTHORS.get(row["video_id"]), row["price"]),
            lambda row: row["is_like"] == 1,
            3,
        ),
        History(
            "seen",
            lambda row: AUTHORS.get(row["video_id"]),
            lambda row: (row["user_id"],),
            lambda _: True,
            2,
            delay_seconds(unit),
        ),
    ]


def delay_seconds(unit: str) -> int:
    """Return the delay of the second history: an hour, or a day if the times are dates."""
    return DAY_SECONDS if unit == "date" else 3600


def toml(unit: str) -> str:
    """Return the configuration for times in a unit."""
    delay, offset = ("1d", "+00:00") if unit == "date" else ("1h", "+08:00")
    return TOML.replace("UNIT", unit).replace("DELAY", delay).replace("OFFSET", offset)


def time_of(row: Row, unit: str) -> int:
    """Return the time of a row at the resolution of the unit, as milliseconds or as days in milliseconds."""
    steps = {"date": DAY_SECONDS * 1000, "s": 1000, "timestamp": 1000, "ms": 1}
    return int(row["ms"]) // steps[unit] * steps[unit]


def day_of(row: Row) -> int:
    """Return the day of a row, from 1."""
    return int(row["ms"]) // (DAY_SECONDS * 1000) - DAY_1 + 1


def order_of(items: Sequence[Any]) -> tuple[int, tuple[Any, ...]]:
    """Return the key by which events of equal key and time are sorted: which items are missing, then their values."""
    missing = sum(2**i for i, item in enumerate(items) if item is None)
    return missing, tuple(item for item in items if item is not None)


def usable_rows(rows: Sequence[Row], last_day: int = LAST_DAY) -> list[Row]:
    """Return the rows that may be events: kept, good, and at most of the last day."""
    return [row for row in rows if row["is_kept"] == 1 and row["is_bad"] == 0 and day_of(row) <= last_day]


def oracle(
    rows: Sequence[Row], unit: str, last_day: int = LAST_DAY, histories: Sequence[History] = ()
) -> dict[str, dict[int, list[Event]]]:
    """Return the histories by name and row: the last events with the key of the row, the oldest first.

    Args:
        rows: Rows of the log, in any order.
        unit: Unit of the times.
        last_day: Last day whose rows are events.
        histories: Histories of the dataset, by default those of `TOML`.
    """
    usable = usable_rows(rows, last_day)
    expected: dict[str, dict[int, list[Event]]] = {}
    for history in histories or histories_of_toml(unit):
        events: dict[Any, list[tuple[int, tuple[Any, ...]]]] = {}
        for row in usable:
            if history.key(row) is not None and history.is_event(row):
                events.setdefault(history.key(row), []).append((time_of(row, unit), history.items(row)))
        for each in events.values():
            each.sort(key=lambda event: (event[0], order_of(event[1])))
        expected[history.name] = {}
        for row in rows:
            now = time_of(row, unit)
            earlier = [e for e in events.get(history.key(row), ()) if e[0] < now - history.delay * 1000]
            expected[history.name][row["row"]] = [
                (now // 1000 - time // 1000, *items) for time, items in earlier[-history.length :]
            ]
    return expected


def random_rows(seed: int, days: Iterable[int] = range(1, 6), rows: int = 12) -> list[Row]:
    """Return random impressions of some days, many of which have the same time, key or item."""
    rng = np.random.default_rng(seed)
    made: list[Row] = []
    for day in days:
        for i in range(rows):
            # Few moments of the day, so that times are equal, differ by a millisecond, or by exactly the delay.
            ms = int(rng.choice([0, 1, 999, 1000, 3_600_000, 3_600_001, 3_601_000, 40_000_000, 86_399_999]))
            made.append(
                {
                    "row": day * 1000 + i,
                    "ms": (DAY_1 + day - 1) * DAY_SECONDS * 1000 + ms,
                    "user_id": [None, 1, 2, 3][int(rng.choice(4, p=(0.1, 0.4, 0.3, 0.2)))],
                    "video_id": [None, "v0", "v1", "v2", "v3"][int(rng.choice(5, p=(0.1, 0.3, 0.3, 0.2, 0.1)))],
                    "price": [None, 0.5, 1.0, 3.0][int(rng.integers(0, 4))],
                    # The first rows are good rows of every split, of which none may lack rows.
                    "is_like": [None, 0, 1][int(rng.choice(3, p=(0.1, 0.3, 0.6)))] if i > 1 else i,
                    "is_kept": int(i < 2 or rng.random() < 0.9),
                    "is_bad": int(i > 1 and rng.random() < 0.1),
                }
            )
    return made


def random_logs(**sizes: Any) -> st.SearchStrategy[list[Row]]:
    """Return a strategy of random logs in a random order of rows."""
    return st.integers(0, 2**16).map(lambda seed: random_rows(seed, **sizes)).flatmap(st.permutations)


def log_table(rows: Sequence[Row], unit: str) -> pa.Table:
    """Return a log with its times in a unit."""
    midnight = datetime(1970, 1, 1)
    times: dict[str, tuple[Callable[[int], Any], pa.DataType]] = {
        "s": (lambda ms: (ms - OFFSET_MS) // 1000, pa.int64()),
        "ms": (lambda ms: ms - OFFSET_MS, pa.int64()),
        "timestamp": (lambda ms: midnight + timedelta(milliseconds=ms - OFFSET_MS), pa.timestamp("ms")),
        "date": (lambda ms: date(1970, 1, 1) + timedelta(days=ms // (DAY_SECONDS * 1000)), pa.date32()),
    }
    convert, kind = times[unit]
    integers = ("row", "user_id", "is_like", "is_kept", "is_bad")
    types = {**dict.fromkeys(integers, pa.int64()), "video_id": pa.string(), "price": pa.float64()}
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    values = [convert(row["ms"]) for row in rows]
    return pa.table(columns | {"time": pa.array(values, kind)})


def write(
    root: Path,
    rows: Sequence[Row],
    unit: str,
    *,
    files: int = 3,
    text: str | None = None,
    text_users: bool = False,
) -> None:
    """Write a log in some files, the side table of videos and the configuration.

    Args:
        root: Folder of the raw files' folder and of the configuration.
        rows: Rows of the log.
        unit: Unit of the times.
        files: Number of files of the log.
        text: Text of the configuration; None for that of the unit.
        text_users: True to write the users as texts.
    """
    (root / "raw" / "log").mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        table = log_table([rows[j] for j in part], unit)
        if text_users:
            users = table["user_id"].cast(pa.string())
            table = table.set_column(table.column_names.index("user_id"), "user_id", users)
        pq.write_table(table, root / "raw" / "log" / f"{i}.parquet")
    videos = pa.table({"video_id": list(AUTHORS), "author": list(AUTHORS.values())})
    pq.write_table(videos, root / "raw" / "videos.parquet")
    (root / "histories.toml").write_text(toml(unit) if text is None else text)


def prepared(root: Path, rows: Sequence[Row], unit: str = "ms", *, files: int = 3, **options: Any) -> Path:
    """Write a log and its configuration, prepare them with `Options(**options)`, and return the dataset directory."""
    write(root, rows, unit, files=files)
    options = {"threads": 1} | options
    prepare(str(root / "histories.toml"), root / "out", Options(str(root / "raw"), **options))
    return root / "out"


def rows_of(folder: Path, *splits: str) -> pa.Table:
    """Return the rows of some splits of a dataset, by default of all."""
    return pa.concat_tables(read(folder, split) for split in splits or SPLITS)


def stored(folder: Path, *, encoded: bool = False) -> dict[str, dict[int, list[Event]]]:
    """Return the histories of a dataset by name and row, as `oracle` does.

    Args:
        folder: Directory of the dataset.
        encoded: True for the ids of the items, which readers of the dataset use; False for their raw values, which the
            dataset keeps for later days.
    """
    parts = rows_of(folder)
    actual: dict[str, dict[int, list[Event]]] = {}
    for history in load_schema(folder).histories:
        files = folder / "histories" / history.name
        seconds = np.load(files / "log_time.npy")
        raw = pq.read_table(folder / "histories" / f"{history.name}.parquet")
        items = [np.load(files / f"{item.feature}.npy").tolist() for item in history.items]
        if not encoded:
            items = [raw[f"item_{item.feature}"].to_pylist() for item in history.items]
        assert {len(column) for column in items} | {len(seconds), len(raw)} == {history.events}
        names = ("row", "log_time", f"{history.name}_begin", f"{history.name}_end")
        actual[history.name] = {
            row: [(now - int(seconds[i]), *(column[i] for column in items)) for i in range(begin, end)]
            for row, now, begin, end in zip(*(parts[name].to_pylist() for name in names), strict=True)
        }
    return actual


def encode(folder: Path, expected: dict[str, dict[int, list[Event]]]) -> dict[str, dict[int, list[Event]]]:
    """Return histories with the ids of their items instead of raw values, by the vocabularies of a dataset."""
    edges = (1.0, 2.0)

    def bucket(price: float | None) -> int:
        return 0 if price is None else 1 + sum(edge <= price for edge in edges)

    def vocabulary(table: str) -> Callable[[Any], int]:
        columns = pq.read_table(folder / "vocab" / f"{table}.parquet").to_pydict()
        rows = dict(zip(columns["raw"], columns["row"], strict=True))
        return lambda value: 0 if value is None else rows.get(value, 0)

    encoders = {
        "liked": (vocabulary("video_id"), vocabulary("author"), bucket),
        "seen": (vocabulary("user_id"),),
    }
    return {
        name: {
            row: [(age, *(f(item) for f, item in zip(encoders[name], items, strict=True))) for age, *items in events]
            for row, events in each.items()
        }
        for name, each in expected.items()
    }
