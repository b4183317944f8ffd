"""The example `feed` with days that are appended, and runs that go on from day to day: what deltas are exported from.

Each later day has some users and videos that no earlier day has, and tables have free rows for them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.run import Options, prepare
from ple_rec.inference.program import PROGRAM, write_program
from ple_rec.inference.signature import Signature
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.training.run import train
from tests.inference.feed import LAST, TOML, day_of, log_of, train_feed, write_logs
from tests.reports.without_charts import without_charts
from tests.training.small import small_config

FREE_ROWS = """
[tables.user_id]
capacity = 40

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
    toml = TOML.replace("capacity = 20", "capacity = 60")
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


def train_on(data: Path, run: Path, before: Path) -> Path:
    """Train a run of four steps on a dataset, from the best checkpoint of the run before."""
    changes = {"train": {"steps": 4, "evaluate_every": 2}, "checkpoint": {"keep": 5}}
    with without_charts():
        train(small_config(data, changes), run, init_from=(before, "best"))
    return run


def later_day(day: int) -> pa.Table:
    """Return a day on which a quarter of the users and videos are new."""
    table, later = day_of(day), day - LAST
    is_new = pc.equal(pc.bit_wise_and(table["user_id"], 3), 0)
    users = pc.if_else(is_new, pc.add(table["user_id"], 100 * later), table["user_id"])
    videos = pc.if_else(is_new, pc.binary_join_element_wise(table["video_id"], f"day {day}", " "), table["video_id"])
    table = table.set_column(table.column_names.index("user_id"), "user_id", users)
    return table.set_column(table.column_names.index("video_id"), "video_id", videos)


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
            if ".embedding_bags." not in name:
                digest.update(value.numpy().tobytes())
        place = folder / digest.hexdigest()
        if not place.exists():
            place.mkdir()
            write_program(model, signature, place)
        shutil.copyfile(place / PROGRAM, version / PROGRAM)

    return write
