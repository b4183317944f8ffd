"""Metadata of a dataset directory: its schema, its statistics, names of buckets, and types of raw columns.

The parts of a dataset are its Parquet files, in one folder for each split.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_prep.engines.base import PartFile
from data_prep.engines.duck import DuckEngine
from data_prep.output.parent import Parent
from data_prep.sources.columns import raw_type
from data_prep.stats import compute
from data_prep.transforms.columns import (
    GROUP_COLUMN,
    SUBGROUP_COLUMN,
    WEIGHT_COLUMN,
    label_column,
    space_columns,
    weights_column,
)
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.splits import date_of_training
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.prep import ColumnType, PrepConfig
from ple_rec.config.schema import (
    DatasetSchema,
    DenseFeature,
    HistoryFeature,
    HistoryItem,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
    VectorFeature,
    VectorTable,
    age_table,
)


@contextmanager
def parts_engine(stage: Path, memory: int | None = None) -> Iterator[DuckEngine]:
    """Open a DuckDB engine with a temporary folder beside those of the splits, which is removed after the block.

    Args:
        stage: Folder in which the dataset is written until it is complete.
        memory: Bytes that the process may use, about; None for DuckDB's default, 80 % of the machine's memory.
    """
    work = stage / "work"
    work.mkdir(exist_ok=True)
    engine = DuckEngine(work, memory=memory)
    try:
        yield engine
    finally:
        engine.close()
        shutil.rmtree(work)


def describe(
    engine: DuckEngine,
    stage: Path,
    schema: DatasetSchema,
    slices: Sequence[str] | None = None,
    names: Mapping[str, Mapping[int, str]] | None = None,
) -> dict[str, Any]:
    """Compute the content of `stats.json`, whose format `data_prep.stats` describes, from the parts of a dataset.

    Args:
        engine: Engine of `parts_engine`.
        stage: Folder in which the dataset is written until it is complete.
        schema: Schema of the dataset.
        slices: Columns by whose values the rows are sliced for correlations of labels; None for the default of
            `compute`.
        names: Text for rows of embedding tables, such as the value that a row stands for, by table and row. The result
            of `bucket_names` is one example.
    """
    files = {split: sorted((stage / split).glob("*.parquet")) for split in SPLITS}
    return compute(engine, files, schema, slices=slices, names=names)


def build_schema(
    config: PrepConfig,
    tables: Iterable[Table],
    files: Mapping[Split, Sequence[PartFile]],
    fingerprint: str,
    parent: Parent | None,
    frozen: Mapping[str, VectorTable] = MappingProxyType({}),
    events: Mapping[str, int] = MappingProxyType({}),
) -> DatasetSchema:
    """Return the content of `schema.toml`.

    Args:
        config: Configuration, with the values that are computed from the log filled in.
        tables: Embedding tables.
        files: Parts of each split.
        fingerprint: Fingerprint of the dataset.
        parent: Dataset to which a day is appended, and whose ids the day keeps; None if no day is appended.
        frozen: Frozen tables by name of the vector feature.
        events: Number of stored events of each history, by its name.
    """
    table_names = {feature.name: feature.table_name for feature in config.sparse}
    ages = (Table(name=age_table(each.name), rows=len(each.age_edges) + 2) for each in config.histories)
    spaces = space_columns(config)
    return DatasetSchema(
        version=1,
        name=config.name,
        fingerprint=fingerprint,
        parent=None if parent is None else parent.schema.fingerprint,
        ancestors=() if parent is None else parent.lineage,
        day=date_of_training(config),
        ancestor_days=() if parent is None else parent.known_days,
        tables=(*tables, *ages),
        sparse=tuple(
            SparseFeature(
                name=feature.name,
                table=feature.table_name,
                bag=feature.bag,
                weights=weights_column(feature.name) if feature.weights is not None else None,
            )
            for feature in config.sparse
        ),
        dense=tuple(DenseFeature(name=number.name, normaliser=number.normaliser) for number in config.dense_features),
        vectors=tuple(
            VectorFeature(
                name=vector.name, width=vector.width, normaliser=vector.normaliser, table=frozen.get(vector.name)
            )
            for vector in config.vectors
        ),
        histories=tuple(
            HistoryFeature(
                name=history.name,
                items=tuple(HistoryItem(feature=item, table=table_names[item]) for item in history.items),
                length=history.length,
                age_edges=history.age_edges,
                events=events[history.name],
            )
            for history in config.histories
        ),
        tasks=tuple(
            Task(name=task.name, kind=task.kind, label=label_column(task), space=spaces.get(task.name))
            for task in config.tasks
        ),
        sample_weight=WEIGHT_COLUMN if config.weight is not None or config.sampling is not None else None,
        group=GROUP_COLUMN if config.group is not None else None,
        subgroup=SUBGROUP_COLUMN if config.has_subgroups else None,
        group_by=config.group_entries if config.has_subgroups else None,
        splits={
            split: SplitInfo(rows=sum(file.rows for file in each), row_groups=sum(file.row_groups for file in each))
            for split, each in files.items()
        },
    )


def bucket_names(config: PrepConfig) -> dict[str, dict[int, str]]:
    """Return the bounds of each bucket as a text, `< 0` or `[0, 10)`, by table and row.

    A bucketised feature has a table of its own, with the name of the feature. Features whose edges are not known are
    left out, and so is row 0, which stands for a missing value.
    """
    names = {}
    for feature in config.sparse:
        if feature.edges is not None:
            bounds = [f"{edge:g}" for edge in feature.edges]
            texts = [f"< {bounds[0]}", *(f"[{a}, {b})" for a, b in pairwise(bounds)), f">= {bounds[-1]}"]
            names[feature.name] = dict(enumerate(texts, 1))
    return names


def inferred_types(resolved: Resolved) -> dict[str, dict[str, ColumnType]]:
    """Return the inferred types of the CSV columns that expressions read, by table (`log` or a side table) and column.

    Tables without such columns are left out.
    """
    columns = {"log": resolved.log_columns, **resolved.side_columns}
    types = {}
    for name, table in resolved.tables.items():
        # `text` describes a CSV file and is None for a Parquet file. All files of a table have the same types.
        text = table.files[0].text
        inferred = {} if text is None else text.inferred
        types[name] = {column: inferred[column] for column in columns[name] if column in inferred}
    return {name: each for name, each in types.items() if each}


def column_types(resolved: Resolved) -> dict[str, dict[str, str]]:
    """Return the types of the columns that expressions read, by table and column (`ple_rec.config.raw_form`).

    Tables without such columns are left out.
    """
    columns = {"log": resolved.log_columns, **resolved.side_columns}
    types = {
        name: {column: raw_type(table.schema.field(column).type) for column in columns[name]}
        for name, table in resolved.tables.items()
    }
    return {name: each for name, each in types.items() if each}
