"""A feed log as a dataset directory, data/own. The log is made up: put your own columns in its place."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import write_tables
from ple_rec.config.schema import DenseFeature, SparseFeature, Task

# Rows are in the order of time: training rows end at TRAIN, validation rows at VALID, test rows at ROWS.
ROWS, TRAIN, VALID = 10_000, 8_000, 9_000


def table_rows(raw: pa.Array) -> pa.Array:
    """Return the table row of each raw value: 1, 2, ... for values of the training rows, 0 for any other."""
    return pc.add(pc.fill_null(pc.index_in(raw, raw[:TRAIN].drop_null().unique()), -1), 1)


rng = np.random.default_rng(0)
quality = rng.normal(size=300)
user, video = rng.integers(0, 500, ROWS), rng.integers(0, 300, ROWS)
price = rng.exponential(20, ROWS)
click = rng.random(ROWS) < 1 / (1 + np.exp(1 + np.log1p(price) / 2 - 2 * quality[video]))
watch = np.clip(0.5 + 0.2 * quality[video] + 0.1 * rng.normal(size=ROWS), 0, None)  # The watched part of the video.
user_row, video_row = table_rows(pa.array([f"u{i}" for i in user])), table_rows(pa.array([f"v{i}" for i in video]))
clicked: dict[int, list[int]] = {int(i): [] for i in user}
history = []  # Each row has the last five videos that its user clicked before.
for i in range(ROWS):
    history.append(clicked[user[i]][-5:])
    if click[i]:
        clicked[user[i]].append(video_row[i].as_py())

columns = {"user": user_row, "video": video_row, "history": history, "price": price, "click": click, "watch": watch}
log = pa.table(columns)
schema = write_tables(
    Path("data/own"),
    name="own",
    splits={"train": log[:TRAIN], "valid": log[TRAIN:VALID], "test": log[VALID:]},
    sparse=[SparseFeature(name=column, table=column) for column in ("user", "video")]
    + [SparseFeature(name="history", table="video", bag=True)],
    dense=[DenseFeature(name="price", normaliser="log")],
    tasks=[
        Task(name="click", kind="binary", label="click"),
        # The label exists only in rows that the user clicked.
        Task(name="watch", kind="regression", label="watch", space="click"),
    ],
)
print(f"data/own: {schema.table_rows()}. Next: ple-rec train --config docs/examples/own.toml")
