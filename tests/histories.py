"""A dataset with a history, written by hand, whose labels are functions of the history.

Users look at videos. The events of the history `liked` are the rows whose `like` is true, and its items are the video,
its author and the tab. `click` and `seconds` depend on the videos of the history alone: their mean effect. `again` is
true if the history has a video of the author of the row, so it depends on the history and on the row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.output.parts import write_part
from data_prep.output.writer import finish
from ple_rec.config.base import Split
from ple_rec.config.schema import (
    DatasetSchema,
    DenseFeature,
    HistoryFeature,
    HistoryItem,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
)

NAME = "liked"
LENGTH = 6
AGE_EDGES = (60, 600, 3600)
USERS, VIDEOS, AUTHORS, TABS = 12, 40, 10, 4
ROWS: dict[Split, int] = {"train": 1024, "valid": 256, "test": 256}
GROUP_ROWS = 64
FINGERPRINT = "histories"
START = 1_700_000_000
ITEMS = ("video", "author", "tab")

Columns = dict[str, NDArray[Any]]


def log_rows(seed: int = 0) -> Columns:
    """Rows of the log in the order of time, three to a request, which has one user and one time.

    `liked_begin` and `liked_end` are the numbers of the events in `events_of`. Row 0 of `user` is a missing user, whose
    history is empty and whose rows are no events.
    """
    rng, rows = np.random.default_rng(seed), sum(ROWS.values())
    requests = -(-rows // 3)
    user = np.repeat(rng.integers(0, USERS, requests), 3)[:rows].astype(np.int32)
    time = np.repeat(START + rng.integers(0, 200, requests).cumsum(), 3)[:rows]
    video = rng.integers(0, VIDEOS, rows).astype(np.int32)
    columns: Columns = {
        "user": user,
        "video": video,
        "author": (video % AUTHORS).astype(np.int32),
        "tab": rng.integers(0, TABS, rows).astype(np.int32),
        "noise": rng.normal(size=rows).astype(np.float32),
        "like": (rng.random(rows) < 0.4) & (user > 0),
        "log_time": time,
    }
    events = events_of(columns)
    begin, end = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for i in range(rows):
        if user[i]:
            first = int(np.searchsorted(events["user"], user[i]))
            mine = events["log_time"][events["user"] == user[i]]
            end[i] = first + int((mine < time[i]).sum())
            begin[i] = max(first, end[i] - LENGTH)
    effect = np.random.default_rng(1).normal(size=VIDEOS)
    mean = [effect[events["video"][b:e]].mean() if e > b else 0.0 for b, e in zip(begin, end, strict=True)]
    seen = [set(events["author"][b:e].tolist()) for b, e in zip(begin, end, strict=True)]
    return columns | {
        "liked_begin": begin,
        "liked_end": end,
        "click": (np.array(mean) > 0).astype(np.float32),
        "seconds": np.array(mean, np.float32),
        "again": np.array([a in s for a, s in zip(columns["author"].tolist(), seen, strict=True)], np.float32),
    }


def events_of(columns: Columns) -> Columns:
    """The events of all rows, by user, then by time, then by the values of the items."""
    event = np.flatnonzero(columns["like"])
    keys = [columns[name][event] for name in (*reversed(ITEMS), "log_time", "user")]
    order = event[np.lexsort(keys)]
    return {name: columns[name][order] for name in ("user", "log_time", *ITEMS)}


def expected_history(columns: Columns, events: Columns, row: int) -> list[list[int]]:
    """The ids of the columns of the history of a row, found by its user and its time: the items, then the ages."""
    is_before = (events["user"] == columns["user"][row]) & (events["log_time"] < columns["log_time"][row])
    before = np.flatnonzero(is_before)[-LENGTH:]
    ages = [int(columns["log_time"][row] - events["log_time"][i]) for i in before]
    buckets = [1 + sum(edge <= age for edge in AGE_EDGES) for age in ages]
    return [*([int(events[name][i]) for i in before] for name in ITEMS), buckets]


def histories_schema(events: int, fingerprint: str = FINGERPRINT, ancestors: tuple[str, ...] = ()) -> DatasetSchema:
    """`schema.toml` of the dataset."""
    labels = {"click": "click", "watch": "seconds", "again": "again"}
    sizes = {"user": USERS, "video": VIDEOS, "author": AUTHORS, "tab": TABS, f"{NAME}_age": len(AGE_EDGES) + 2}
    return DatasetSchema(
        version=1,
        name="histories",
        fingerprint=fingerprint,
        parent=ancestors[0] if ancestors else None,
        ancestors=ancestors,
        tables=tuple(Table(name=name, rows=rows) for name, rows in sizes.items()),
        sparse=tuple(SparseFeature(name=name, table=name) for name in ("user", *ITEMS)),
        dense=(DenseFeature(name="noise", normaliser="none"),),
        histories=(
            HistoryFeature(
                name=NAME,
                items=tuple(HistoryItem(feature=name, table=name) for name in ITEMS),
                length=LENGTH,
                age_edges=AGE_EDGES,
                events=events,
            ),
        ),
        tasks=tuple(
            Task(name=name, kind="regression" if name == "watch" else "binary", label=label)
            for name, label in labels.items()
        ),
        group="user_group",
        splits={split: SplitInfo(rows=rows, row_groups=rows // GROUP_ROWS) for split, rows in ROWS.items()},
    )


def write_histories(
    folder: Path,
    *,
    seed: int = 0,
    change: Columns | None = None,
    fingerprint: str = FINGERPRINT,
    ancestors: tuple[str, ...] = (),
) -> Columns:
    """Write the dataset to a new folder, and return all rows of the log, those of training first.

    Args:
        folder: The dataset directory.
        seed: Of the log.
        change: Columns of the log to write in place of the right ones.
        fingerprint: Of the dataset.
        ancestors: Fingerprints of its ancestors, the parent first.
    """
    columns = log_rows(seed)
    columns["user_group"] = columns["user"].astype(np.int64)
    events, written, begin = events_of(columns), columns | (change or {}), 0
    for split, rows in ROWS.items():
        (folder / split).mkdir(parents=True)
        part = pa.table({name: values[begin : begin + rows] for name, values in written.items() if name != "like"})
        write_part(folder / split / "part-00000.parquet", part, fingerprint, GROUP_ROWS)
        begin += rows
    directory = folder / "histories" / NAME
    directory.mkdir(parents=True)
    np.save(directory / "log_time.npy", events["log_time"].astype(np.int64))
    for name in ITEMS:
        np.save(directory / f"{name}.npy", events[name].astype(np.int32))
    lengths = (columns["liked_end"] - columns["liked_begin"])[: ROWS["train"]]
    stats = {"columns": {NAME: {"train": {"mean_length": float(lengths.mean())}}}}
    finish(folder, histories_schema(len(events["user"]), fingerprint, ancestors), fingerprint, stats)
    return columns
