"""The example `feed` with days that are appended, and runs that go on from day to day: what deltas are exported from.

Each later day has some users and videos that no earlier day has, and tables have free rows for them. A value without a
training row on a day loses its row, which new values of the same or a later day get.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.run import Options, prepare
from ple_rec.inference.program import PROGRAM, write_program
from ple_rec.inference.signature import Signature
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.training.run import train
from tests.inference.feed import FIRST_USER, LAST, TOML, day_of, log_of, train_feed, write_logs
from tests.reports.without_charts import without_charts
from tests.training.small import small_config

FREE_ROWS = """
[tables.user_id]
capacity = 40
expire = { unseen_days = 1 }

[tables.city]
capacity = 12

[tables.tags]
capacity = 12
"""


def write_days(root: Path, last: int) -> Path:
    """Prepare the first days, append the others, and train a run on each dataset, from that of the day before.

    The datasets are `data` and `data-<day>`, the runs `run` and `run-<day>`.

    Args:
        root: Folder of all.
        last: Number of the last day.
    """
    write_logs(root)
    toml = TOML.replace("capacity = 20", "capacity = 60\nexpire = { unseen_days = 1 }")
    (root / "feed.toml").write_text(toml.replace("[tables.video_id]", f"{FREE_ROWS}\n[tables.video_id]"))
    train_feed(root)
    data, run = root / "data", root / "run"
    for day in range(LAST + 1, last + 1):
        pq.write_table(later_day(day), log_of(root, day))
        shares = ("append.valid=0.2", "append.test=0.3")
        options = Options(source=str(root / "raw"), threads=1, append=f"day={day}", parent=data, overrides=shares)
        data, before = root / f"data-{day}", run
        prepare(str(root / "feed.toml"), data, options)
        run = train_on(data, root / f"run-{day}", before)
    return root


def train_on(data: Path, run: Path, before: Path | None, changes: Mapping[str, Any] | None = None) -> Path:
    """Train a run of four steps on a dataset.

    Args:
        data: Dataset.
        run: Directory of the run.
        before: Run from whose best checkpoint it starts; None for random weights.
        changes: Further changes of the configuration, by section.
    """
    settings = {"train": {"steps": 4, "evaluate_every": 2}, "checkpoint": {"keep": 5}} | dict(changes or {})
    with without_charts():
        train(small_config(data, settings), run, init_from=None if before is None else (before, "best"))
    return run


def later_day(day: int) -> pa.Table:
    """Return a day on which a third of the rows have new users and videos."""
    table, later = day_of(day), day - LAST
    users, videos = table["user_id"].to_pylist(), table["video_id"].to_pylist()
    for row in range(0, len(users), 3):
        users[row] = FIRST_USER + 100 * later + row % 4
        videos[row] = f"day {day} video {row % 5}"
    table = table.set_column(table.column_names.index("user_id"), "user_id", pa.array(users))
    return table.set_column(table.column_names.index("video_id"), "video_id", pa.array(videos))


def program_writer(folder: Path) -> Callable[..., None]:
    """Return a function in place of `write_program`, which traces the dense layers of one checkpoint only once.

    To trace them takes most of the time of an export.

    Args:
        folder: Folder of the programs.
    """

    def write(model: MultiTaskModel, signature: Signature, version: Path, *, onnx: bool) -> None:
        assert not onnx
        digest = hashlib.sha256()
        for name, value in sorted(model.state_dict().items()):
            if not name.startswith(("embeddings.", "sequences.")):
                digest.update(value.numpy().tobytes())
        place = folder / digest.hexdigest()
        if not place.exists():
            place.mkdir()
            write_program(model, signature, place)
        shutil.copyfile(place / PROGRAM, version / PROGRAM)

    return write
