"""Random logs whose values come and go, and a reference that keeps the vocabularies in plain Python."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.output.summary import Summary
from data_prep.progress import Progress
from data_prep.run import Options, prepare

DAY_1 = 19_000  # 2022-01-08
FIRST_DAYS, LAST_TRAINING_DAY = 5, 3
TOML = """
name = "turnover"

[log]
files = ["log"]

[sides.videos]
files = ["videos.parquet"]
on = {video_id = "video_id"}

[time]
value = "time_s"
unit = "s"

[split]
by = "day"
train = [1, 3]
valid = [4, 4]
test = [5, 5]
day_1 = "2022-01-08"

[append]
valid = 0.15
test = 0.15

[tables.user_id]
capacity = 14
admit = {count = 2, days = 3}
expire = {unseen_days = 4}

[tables.video]
min_count = 2
admit = {count = 4, days = 2}
expire = {unseen_days = 2}

[tables.tag]
capacity = 9
overflow = "hash"
hash_rows = 2
expire = {unseen_days = 2}

[tables.city]
capacity = 8
admit = {count = 3, days = 4}

[tables.shop]
capacity = 30

[[sparse]]
name = "user_id"

[[sparse]]
name = "video_id"
table = "video"

[[sparse]]
name = "previous"
table = "video"

[[sparse]]
name = "history"
table = "video"
bag = true
max_length = 2

[[sparse]]
name = "tags"
value = "videos.tags"
table = "tag"
bag = true

[[sparse]]
name = "city"

[[sparse]]
name = "shop"

[[tasks]]
name = "like"
kind = "binary"
label = "is_like"

[carry]
row = "row"
"""
GROUP = 'group = "row"\n'  # Every row is a group, so that rows of all splits have the same values.


@dataclass
class ReferenceTable:
    """Vocabulary of a table, by the rules of the documentation.

    Args:
        values: Names of the columns whose values share the table.
        limit: Number of rows for values; None if the first vocabulary decides.
        min_count: Training rows of the first days, or of a day without `admit`, that a value needs.
        admit: Number of training rows and of days.
        unseen_days: Days without a training row after which a value loses its row.
        entries: Raw value, count and day of each row from row 1 on.
        by_day: Counts of the values by day.
    """

    values: tuple[str, ...]
    limit: int | None = None
    min_count: int = 1
    admit: tuple[int, int] | None = None
    unseen_days: int | None = None
    entries: list[tuple[Any, int, int | None]] = field(default_factory=list)
    by_day: dict[int, Counter[Any]] = field(default_factory=dict)

    def count(self, rows: Sequence[dict[str, Any]]) -> None:
        """Count the values of training rows."""
        for row in rows:
            for name in self.values:
                cell = row[name]
                for value in cell if isinstance(cell, list) else [cell]:
                    if value is not None:
                        self.by_day.setdefault(row["day"], Counter())[value] += 1

    def latest(self, day: int, days: int) -> Counter[Any]:
        """Return the counts of the latest days."""
        return sum((self.by_day.get(each, Counter()) for each in range(day - days + 1, day + 1)), Counter())

    def begin(self, day: int) -> None:
        """Number the values of the first days."""
        counts = self.latest(day, 99)
        chosen = sorted((value for value in counts if counts[value] >= self.min_count), key=lambda v: (-counts[v], v))
        has_days = self.admit is not None or self.unseen_days is not None
        self.entries = [(value, counts[value], day if has_days else None) for value in chosen][: self.limit]
        self.limit = self.limit or len(self.entries)

    def append(self, day: int) -> tuple[int, int]:
        """Apply the rules of an appended day, and return the numbers of assigned and of freed rows."""
        freed = 0
        if self.unseen_days is not None:
            seen = self.latest(day, self.unseen_days)
            for row, (value, _, _) in enumerate(self.entries):
                if value is not None and not seen[value]:
                    self.entries[row] = (None, 0, None)
                    freed += 1
        minimum, days = (self.min_count, 1) if self.admit is None else self.admit
        counts = self.latest(day, days)
        known = {value for value, _, _ in self.entries}
        new = [value for value in counts if counts[value] >= minimum and value not in known]
        assigned = 0
        for value in sorted(new, key=lambda v: (-counts[v], v)):
            free = [row for row, entry in enumerate(self.entries) if entry[0] is None]
            assert self.limit is not None
            if free:
                self.entries[free[0]] = (value, counts[value], day)
            elif len(self.entries) < self.limit:
                self.entries.append((value, counts[value], day))
            else:
                break
            assigned += 1
        return assigned, freed


def reference_tables() -> dict[str, ReferenceTable]:
    """Return the tables of `TOML`, still empty."""
    return {
        "user_id": ReferenceTable(("user_id",), 13, admit=(2, 3), unseen_days=4),
        "video": ReferenceTable(("video_id", "previous", "history"), None, 2, (4, 2), 2),
        "tag": ReferenceTable(("tags",), 6, unseen_days=2),
        "city": ReferenceTable(("city",), 7, admit=(3, 4)),
        "shop": ReferenceTable(("shop",), 29),
    }


def rows_of_day(rng: np.random.Generator, day: int, count: int = 24) -> list[dict[str, Any]]:
    """Return random impressions of a day; from day to day, the users and videos that occur are others."""

    def around(step: float, width: int) -> int:
        return int(step * day) + int(rng.integers(0, width))

    def video() -> str | None:
        return None if rng.random() < 0.1 else f"v{around(1.5, 6)}"

    rows = []
    for i in range(count):
        # Days of one user leave few values, days of many leave none without a row.
        users = 3 if day % 4 == 0 else 12
        rows.append(
            {
                "row": day * 1000 + i,
                "day": day + DAY_1 - 1,
                "time_s": (day + DAY_1 - 1) * 86_400 + i,
                "user_id": None if rng.random() < 0.05 else around(2, users) - 5,
                "video_id": video(),
                "previous": video(),
                "history": [video() for _ in range(int(rng.integers(0, 4)))],
                "city": f"c{around(0.5, 4)}",
                "shop": around(0.5, 4),
                "is_like": int(rng.integers(0, 2)),
            }
        )
    return rows


def tags_of(video: str | None) -> list[str | None] | None:
    """Return the tags of a video, which the side table has for every fourth video but one."""
    if video is None or int(video[1:]) % 4 == 3:
        return None
    number = int(video[1:])
    return [f"t{number // 2}", f"t{number // 3}", None]


class Chain:
    """Logs and datasets of successive days in a folder.

    Args:
        root: Folder.
        seed: Seed of the logs.
        toml: Configuration of the preparations.
    """

    def __init__(self, root: Path, seed: int = 0, toml: str = GROUP + TOML) -> None:
        rng = np.random.default_rng(seed)
        self.root = root
        self.days = {day: rows_of_day(rng, day) for day in range(1, 20)}
        videos = [f"v{i}" for i in range(60) if i % 4 != 3]
        root.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({"video_id": videos, "tags": [tags_of(video) for video in videos]}), root / "videos.parquet"
        )
        (root / "turnover.toml").write_text(toml)

    def write(self, days: Sequence[int]) -> Path:
        """Write the log of some days, and return the folder of the raw files."""
        raw = self.root / f"raw-{days[0]}-{days[-1]}"
        (raw / "log").mkdir(parents=True, exist_ok=True)
        (raw / "videos.parquet").write_bytes((self.root / "videos.parquet").read_bytes())
        for day in days:
            table = pa.Table.from_pylist(self.days[day]).drop_columns(["day"])
            users = table["user_id"].cast(pa.int64())  # Also if all of them are null.
            table = table.set_column(table.column_names.index("user_id"), "user_id", users)
            pq.write_table(table, raw / "log" / f"{day}.parquet")
        return raw

    def prepare(self, out: str, *overrides: str, **options: Any) -> tuple[Summary, str]:
        """Prepare the first days, and return the summary and the lines of progress."""
        return self._prepare(self.write(range(1, FIRST_DAYS + 1)), out, overrides, options)

    def append(self, out: str, day: int, parent: str, *overrides: str, **options: Any) -> tuple[Summary, str]:
        """Append a day to a dataset."""
        options |= {"append": f"day={day}", "parent": self.root / parent}
        return self._prepare(self.write([day]), out, overrides, options)

    def _prepare(self, raw: Path, out: str, overrides: Sequence[str], options: dict[str, Any]) -> tuple[Summary, str]:
        lines = io.StringIO()
        settings = Options(str(raw), threads=1, overrides=tuple(overrides), **options)
        summary = prepare(str(self.root / "turnover.toml"), self.root / out, settings, progress=Progress(stream=lines))
        return summary, lines.getvalue()

    def training_rows(self, out: str) -> list[dict[str, Any]]:
        """Return the rows of the log that are in train, with the tags of their videos and truncated histories."""
        rows = {row["row"]: row for each in self.days.values() for row in each}
        parts = [pq.read_table(file)["row"] for file in sorted((self.root / out / "train").glob("*.parquet"))]
        return [
            rows[row] | {"tags": tags_of(rows[row]["video_id"]) or [], "history": rows[row]["history"][-2:]}
            for part in parts
            for row in part.to_pylist()
        ]

    def vocabulary(self, out: str, table: str) -> list[tuple[Any, int, int | None]]:
        """Return raw value, count and day of each row of a table."""
        columns = pq.read_table(self.root / out / "vocab" / f"{table}.parquet").to_pydict()
        assert columns["row"] == list(range(1, len(columns["row"]) + 1))
        days = columns.get("day", [None] * len(columns["row"]))
        return list(zip(columns["raw"], columns["count"], days, strict=True))
