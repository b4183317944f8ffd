"""The smallest logs that a whole run takes, for tests that break them: four files of a day each, five columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.output.summary import Summary
from data_prep.run import Options, prepare
from ple_rec.errors import DataError

DAY_1 = 1_650_000_000_000 // 86_400_000 * 86_400_000  # ms; 2022-04-15 UTC
DAY_MS = 86_400_000
DAY_ROWS, GROUP_ROWS = 24, 10

TOML = """
name = "plain"
group = "user_id"

[log]
files = ["log"]

[time]
value = "time_ms"
unit = "ms"

[split]
by = "day"
train = [1, 2]
valid = [3, 3]
test = [4, 4]

[checks]
duration = "duration_ms >= 0"

[[sparse]]
name = "video_id"

[[dense]]
name = "price"

[[tasks]]
name = "like"
kind = "binary"
label = "is_like"
"""
# A history for `TOML`.
LIKED = """
[[histories]]
name = "liked"
key = "user_id"
items = ["video_id"]
where = "is_like = 1"
length = 3
"""
SIDE = """
[sides.users]
files = ["users.parquet"]
on = {user_id = "user_id"}

[[sparse]]
name = "age"
value = "users.age"
"""


def day_of(day: int, rows: int = DAY_ROWS) -> pa.Table:
    """One day, from 1. Every column depends on the row's number alone."""
    i = np.arange(rows) + (day - 1) * rows
    return pa.table(
        {
            "user_id": i % 7,
            "video_id": [f"v{n % 5}" for n in i],
            "time_ms": DAY_1 + (day - 1) * DAY_MS + np.arange(rows) * 60_000,
            "duration_ms": i * 100,
            "price": i / 4,
            "is_like": (i % 3 == 0).astype(np.int64),
        }
    )


def with_column(table: pa.Table, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    """The table with other values in a column: all of them, or those of some rows."""
    if isinstance(values, Mapping):
        changed = table[name].to_pylist()
        for row, value in values.items():
            changed[row] = value
        kind = kind or table[name].type
        values = pa.array(changed, kind)
    elif not isinstance(values, pa.Array):
        values = pa.array(values, kind)
    return table.set_column(table.column_names.index(name), name, values)


class Logs:
    """Raw files under a folder, a configuration beside them, and the run over them."""

    def __init__(self, root: Path, toml: str = TOML, days: int = 4) -> None:
        self._places(root)
        (self.raw / "log").mkdir(parents=True)
        for day in range(1, days + 1):
            self.write(day, day_of(day))
        self.toml.write_text(toml)

    def _places(self, root: Path) -> None:
        self.root, self.raw, self.out, self.toml = root, root / "raw", root / "out", root / "plain.toml"

    @classmethod
    def there(cls, root: Path) -> Logs:
        """The logs of a folder that a test has made before, or a copy of one."""
        logs = cls.__new__(cls)
        logs._places(root)
        return logs

    def file(self, day: int) -> Path:
        """Of a day."""
        return self.raw / "log" / f"day {day}.parquet"

    def write(self, day: int, table: pa.Table, **options: Any) -> None:
        """Replace the file of a day."""
        pq.write_table(table, self.file(day), **({"row_group_size": GROUP_ROWS} | options))

    def spoil(self, day: int, column: str, values: Any, kind: pa.DataType | None = None) -> None:
        """Put other values in a column of a day."""
        self.write(day, with_column(day_of(day), column, values, kind))

    def users(self, rows: list[dict[str, Any]], **options: Any) -> None:
        """Write the side table."""
        pq.write_table(pa.Table.from_pylist(rows), self.raw / "users.parquet", **options)

    def prepare(self, *overrides: str, **options: Any) -> Summary:
        """Run."""
        settings: dict[str, Any] = {"source": str(self.raw), "threads": 1} | options
        return prepare(str(self.toml), self.out, Options(overrides=overrides, **settings))

    def refusal(self, *overrides: str, **options: Any) -> str:
        """The message of a run that refuses the data; it leaves nothing behind."""
        with pytest.raises(DataError) as caught:
            self.prepare(*overrides, **options)
        assert caught.value.exit_code == 3
        assert not self.out.exists()
        assert sorted(path.name for path in self.root.iterdir() if path.name.startswith(".")) == []
        return str(caught.value)
