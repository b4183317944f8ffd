"""Small synthetic dataset directories, complete as data preparation leaves them, whose labels can be learnt.

The labels of a row follow from its features: each row of a table has an effect, each dense feature a slope, z is their
sum divided by its standard deviation, click ~ Bernoulli(sigmoid(STRENGTH z)) and watch = z + noise.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep import stats as st
from data_prep.output.parts import COMPRESSION
from data_prep.output.writer import finish
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import (
    FINGERPRINT_KEY,
    VOCAB_DIR,
    DatasetSchema,
    DenseFeature,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
)

TABLES = {"user": 24, "item": 40, "tag": 12}
STRENGTH = 3.0
QUANTILES = 101

Edit = Callable[[Split, pa.Table], pa.Table]
Floats = NDArray[np.float64]


def write_dataset(
    path: Path,
    *,
    rows: int = 512,
    row_group_rows: int | Sequence[int] = 64,
    parts: int = 1,
    seed: int = 0,
    single: bool = True,
    shared_table: bool = True,
    bag: bool = True,
    weighted_bag: bool = True,
    dense: bool = True,
    binary: bool = True,
    regression: bool = True,
    space: bool = True,
    sample_weight: bool = True,
    group: bool = True,
    subgroup: bool = False,
    used: Mapping[str, int] | None = None,
    capacity: int | None = None,
    ancestors: tuple[str, ...] = (),
    edit: Edit | None = None,
) -> DatasetSchema:
    """Write a dataset directory at `path`, which must be free.

    Args:
        path: The directory.
        rows: Of the training split; `valid` and `test` have half as many each.
        row_group_rows: Rows of each row group; of several, one after the other and again from the first.
        parts: Parquet files of the training split.
        seed: Of the rows; the planted function is always the same.
        single: Features `user` and `item`.
        shared_table: Feature `last_item`, which reads the table of `item`.
        bag: Feature `history`, a bag of items; some are null, some empty.
        weighted_bag: Feature `tags`, a bag with weights `tag_weights`.
        dense: Features `age` (standard), `price` (log), `score` (quantile), `bias` (none), all but the last with nulls.
        binary: Task `click`.
        regression: Task `watch`.
        space: `watch` counts, and is not null, where column `watched` is true.
        sample_weight: Column `weight`.
        group: Column `request`, ascending.
        subgroup: Column `part`: the first four rows of a request, or the others; ids descend from request to request.
        used: Rows in use, by table, where they are fewer than `TABLES` says; ids beyond become 0.
        capacity: Rows that every table is allocated.
        ancestors: Fingerprints of datasets with the same ids, the parent first.
        edit: Changes the rows of a split just before they are written; statistics and schema are those from before.

    Returns:
        What `schema.toml` says.
    """
    tables = {
        split: synthetic_rows(
            rows if split == "train" else rows // 2,
            seed=(seed, i),
            single=single,
            shared_table=shared_table,
            bag=bag,
            weighted_bag=weighted_bag,
            dense=dense,
            binary=binary,
            regression=regression,
            space=space,
            sample_weight=sample_weight,
            group=group,
        )
        for i, split in enumerate(SPLITS)
    }
    sizes = TABLES | dict(used or {})
    tables = {split: _unknown_beyond(table, sizes) for split, table in tables.items()}
    if subgroup:
        tables = {split: table.append_column("part", _parts(table["request"])) for split, table in tables.items()}
    groups = {split: list(_cut(table, row_group_rows)) for split, table in tables.items()}
    names = tables["train"].column_names
    sparse = [feature for feature in _SPARSE if feature.name in names]
    read = {feature.table for feature in sparse}
    fields: dict[str, Any] = {
        "version": 1,
        "name": path.name,
        "parent": ancestors[0] if ancestors else None,
        "ancestors": ancestors,
        "tables": tuple(Table(name=name, rows=size, capacity=capacity) for name, size in sizes.items() if name in read),
        "sparse": tuple(sparse),
        "dense": tuple(feature for feature in _DENSE if feature.name in names),
        "tasks": tuple(
            task if task.space in names else Task(name=task.name, kind=task.kind, label=task.label)
            for task in _TASKS
            if task.label in names
        ),
        "sample_weight": "weight" if sample_weight else None,
        "group": "request" if group else None,
        "subgroup": "part" if subgroup else None,
        "splits": {
            split: SplitInfo(rows=table.num_rows, row_groups=len(groups[split])) for split, table in tables.items()
        },
    }
    content = repr(fields) + repr([table.to_pydict() for table in tables.values()])
    schema = DatasetSchema(fingerprint=hashlib.sha256(content.encode()).hexdigest(), **fields)
    path.mkdir(parents=True)
    vocabularies = {table.name: _vocabulary(table, schema, tables["train"]) for table in schema.tables}
    finish(path, schema, "synthetic", statistics(schema, tables))
    for name, vocabulary in vocabularies.items():
        pq.write_table(vocabulary, path / VOCAB_DIR / f"{name}.parquet")
    for split in SPLITS:
        (path / split).mkdir()
        pieces = groups[split]
        if edit is not None:
            pieces = list(_cut(edit(split, tables[split]), row_group_rows))
        count = parts if split == "train" else 1
        for i in range(count):
            mine = pieces[i * len(pieces) // count : (i + 1) * len(pieces) // count]
            write_row_groups(path / split / f"part-{i:05}.parquet", mine, schema.fingerprint)
    return schema


def _parts(requests: pa.ChunkedArray) -> pa.Array:
    ids = requests.to_numpy()
    _, first, counts = np.unique(ids, return_index=True, return_counts=True)
    place = np.arange(len(ids)) - np.repeat(first, counts)
    return pa.array(10_000 - 2 * ids + (place >= 4), pa.int64())


def write_row_groups(file: Path, groups: Sequence[pa.Table], fingerprint: str) -> None:
    """A Parquet part with one row group for each table."""
    schema = groups[0].schema.with_metadata({FINGERPRINT_KEY: fingerprint.encode()})
    with pq.ParquetWriter(file, schema, compression=COMPRESSION) as out:
        for table in groups:
            out.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=max(1, table.num_rows))


def set_column(table: pa.Table, name: str, values: object, kind: pa.DataType | None = None) -> pa.Table:
    """`table` with other values in a column, of the type it had unless `kind` is given."""
    i = table.column_names.index(name)
    array = values if isinstance(values, pa.Array) else pa.array(values, kind or table.schema.field(i).type)
    return table.set_column(i, name, array)


def numbered(split: Split, table: pa.Table) -> pa.Table:
    """An `edit` that puts each row's number in the group column, to tell rows apart."""
    return set_column(table, "request", np.arange(table.num_rows))


_SPARSE = (
    SparseFeature(name="user", table="user"),
    SparseFeature(name="history", table="item", bag=True),  # bags between, for the loader puts single ones first
    SparseFeature(name="item", table="item"),
    SparseFeature(name="tags", table="tag", bag=True, weights="tag_weights"),
    SparseFeature(name="last_item", table="item"),
)
_DENSE = (
    DenseFeature(name="age", normaliser="standard"),
    DenseFeature(name="price", normaliser="log"),
    DenseFeature(name="score", normaliser="quantile"),
    DenseFeature(name="bias", normaliser="none"),
)
_TASKS = (
    Task(name="click", kind="binary", label="click"),
    Task(name="watch", kind="regression", label="watch_time", space="watched"),
)


def synthetic_rows(
    rows: int,
    *,
    seed: Sequence[int],
    single: bool,
    shared_table: bool,
    bag: bool,
    weighted_bag: bool,
    dense: bool,
    binary: bool,
    regression: bool,
    space: bool,
    sample_weight: bool,
    group: bool,
) -> pa.Table:
    """Rows of one split; the switches are those of `write_dataset`."""
    rng = np.random.default_rng(seed)
    effect = {name: np.random.default_rng(size).normal(size=size) for name, size in TABLES.items()}
    columns: dict[str, pa.Array] = {}
    z_N: Floats = np.zeros(rows)

    def add_single(name: str, table: str) -> Floats:
        ids = rng.integers(0, TABLES[table], rows)
        columns[name] = pa.array(ids, pa.int32())
        return effect[table][ids]

    def add_bag(name: str, table: str, weights: str | None) -> Floats:
        lengths = rng.integers(0, 5, rows)
        null = rng.random(rows) < 0.1
        lengths[null] = 0
        ids = rng.integers(0, TABLES[table], lengths.sum())
        w = np.ones(len(ids)) if weights is None else rng.integers(1, 9, len(ids)) / 8
        offsets = pa.array(np.append(0, lengths.cumsum()), pa.int32())
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(ids, pa.int32()), mask=pa.array(null))
        if weights is not None:
            columns[weights] = pa.ListArray.from_arrays(offsets, pa.array(w, pa.float32()), mask=pa.array(null))
        sums: Floats = np.zeros(rows)
        np.add.at(sums, np.repeat(np.arange(rows), lengths), w * effect[table][ids])
        return sums

    if single:
        z_N += add_single("user", "user") + add_single("item", "item")
    if shared_table:
        z_N += add_single("last_item", "item")
    if bag:
        z_N += 0.5 * add_bag("history", "item", None)
    if weighted_bag:
        z_N += 0.5 * add_bag("tags", "tag", "tag_weights")
    if dense:
        x_ND = rng.normal(size=(rows, 3))
        null_ND = rng.random((rows, 3)) < 0.1
        for i, (name, value) in enumerate([("age", 40 + 12 * x_ND), ("price", np.exp(x_ND)), ("score", x_ND**3)]):
            columns[name] = pa.array(value[:, i], pa.float32(), mask=null_ND[:, i])
        columns["bias"] = pa.array(rng.integers(0, 2, rows), pa.float32())
        z_N += np.where(null_ND, 0, x_ND).sum(axis=1)
    z_N /= max(1e-6, z_N.std()) if rows else 1
    watched = rng.random(rows) < 0.5
    if binary:
        click = rng.random(rows) < 1 / (1 + np.exp(-STRENGTH * z_N))
        columns["click"] = pa.array(click, pa.int8()).cast(pa.float32())
        watched &= click
    if regression:
        watch_N = z_N + rng.normal(scale=0.3, size=rows)
        columns["watch_time"] = pa.array(watch_N, pa.float32(), mask=~watched if space else None)
        if space:
            columns["watched"] = pa.array(watched)
    if sample_weight:
        columns["weight"] = pa.array(rng.integers(1, 9, rows) / 4, pa.float32())
    if group:
        columns["request"] = pa.array(np.sort(rng.integers(0, max(1, rows // 8), rows)), pa.int64())
    return pa.table(columns)


def _unknown_beyond(table: pa.Table, sizes: Mapping[str, int]) -> pa.Table:
    for feature in _SPARSE:
        if feature.name in table.column_names and sizes[feature.table] < TABLES[feature.table]:
            column = table[feature.name].combine_chunks()
            ids = (column.values if feature.bag else column).to_numpy()
            known = pa.array(np.where(ids < sizes[feature.table], ids, 0), pa.int32())
            if feature.bag:
                known = pa.ListArray.from_arrays(column.offsets, known, mask=column.is_null())
            table = set_column(table, feature.name, known)
    return table


def statistics(schema: DatasetSchema, tables: dict[Split, pa.Table]) -> dict[str, Any]:
    """`stats.json`, as `data_prep.stats` describes it."""
    names = [feature.name for feature in schema.sparse] + [feature.name for feature in schema.dense]
    columns: dict[str, dict[str, Any]] = {name: {} for name in names}
    tasks: dict[str, dict[str, Any]] = {task.name: {} for task in schema.tasks}
    for split, table in tables.items():
        for feature in schema.sparse:
            ids = table[feature.name].combine_chunks()
            ids = ids.flatten() if feature.bag else ids
            missed = int((ids.to_numpy() == 0).sum())
            columns[feature.name][split] = {
                "rows": table.num_rows,
                "oov": missed,
                "oov_rate": st.rate(missed, table.num_rows),
            }
        for number in schema.dense:
            pairs = _counts(table[number.name])
            columns[number.name][split] = st.dense_stats(*pairs, table.num_rows, QUANTILES)
        for task in schema.tasks:
            inside = table if task.space is None else table.filter(table[task.space])
            tasks[task.name][split] = st.task_stats(task, *_counts(inside[task.label]))
    rows = {split: table.num_rows for split, table in tables.items()}
    return {"version": st.STATS_VERSION, "rows": rows, "columns": columns, "tasks": tasks, "dropped": []}


def _counts(column: pa.ChunkedArray) -> tuple[list[float], list[int]]:
    values, counts = np.unique(column.drop_null().to_numpy(), return_counts=True)
    return values.tolist(), counts.tolist()


def _cut(table: pa.Table, sizes: int | Sequence[int]) -> Iterator[pa.Table]:
    start = 0
    for size in itertools.cycle([sizes] if isinstance(sizes, int) else sizes):
        yield table.slice(start, size)
        start += size
        if start >= table.num_rows:
            return


def _vocabulary(table: Table, schema: DatasetSchema, train: pa.Table) -> pa.Table:
    counts = np.zeros(table.rows, np.int64)
    for feature in schema.sparse:
        if feature.table == table.name:
            ids = train[feature.name].combine_chunks()
            counts += np.bincount((ids.flatten() if feature.bag else ids).to_numpy(), minlength=table.rows)
    rows = range(1, table.rows)
    raw = [f"{table.name}-{row}" for row in rows]
    return pa.table({"raw": raw, "row": pa.array(rows, pa.int32()), "count": pa.array(counts[1:])})
