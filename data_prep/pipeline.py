"""From a source to a dataset directory: vocabularies of the training rows, ids, statistics, files.

The engine is DuckDB through Ibis. Nothing that is written depends on the number of threads.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import ibis
import pyarrow as pa

from data_prep import stats as st
from data_prep.census import CENSUS
from data_prep.digest import content_sha256
from data_prep.recipe import FORMAT_VERSION, RawSplits, Recipe
from data_prep.summary import Summary
from data_prep.vocabulary import encode, vocabulary
from data_prep.writer import prepared_recipe, row_groups, staged, write_dataset
from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import (
    SCHEMA_VERSION,
    DatasetSchema,
    DenseFeature,
    SparseFeature,
    SplitInfo,
    Table,
)
from ple_rec.errors import UserError

logger = logging.getLogger(__name__)


class Source(Protocol):
    """A data set that `prepare` knows by name."""

    def recipe(self) -> Recipe:
        """Columns and roles; cheap, so that a directory that is up to date is found at once."""

    def splits(self, connection: ibis.BaseBackend, source: Path | None) -> RawSplits:
        """The rows, from the user's copy where one is named."""


SOURCES: Mapping[str, Source] = {"census": CENSUS}


def prepare(
    name: str, out: Path, *, source: Path | None = None, overwrite: bool = False, threads: int | None = None
) -> Summary:
    """Prepare a data set.

    Args:
        name: A key of `SOURCES`.
        out: The dataset directory: new, empty, or already prepared.
        source: The user's copy of the raw files, a folder or an archive; otherwise the cache or a download.
        overwrite: Whether a dataset directory by another recipe gives way.
        threads: Of the engine; by default all cores.

    Returns:
        What the directory holds.

    Raises:
        UserError: The name is unknown, `out` may not be touched or written, or the raw files cannot be had.
        DataError: The raw files are damaged or are not the known ones.
    """
    if name not in SOURCES:
        close = difflib.get_close_matches(name, SOURCES, n=1)
        fix = f"did you mean {close[0]!r}?" if close else "name one of them"
        raise UserError("prep", f"unknown data set {name!r}", f"known are {', '.join(SOURCES)}", fix)
    return prepare_source(SOURCES[name], out, source=source, overwrite=overwrite, threads=threads)


def prepare_source(
    origin: Source, out: Path, *, source: Path | None = None, overwrite: bool = False, threads: int | None = None
) -> Summary:
    """`prepare` for a source that has no name; same arguments, same errors."""
    recipe = origin.recipe()
    digest = recipe.digest()
    there = prepared_recipe(out)
    if there == digest:
        return Summary.read(out, reused=True)
    if there is not None and not overwrite:
        raise UserError(
            str(out),
            f"was prepared by another recipe ({there[:12] or 'unknown'}, now {digest[:12]})",
            "a dataset directory is replaced on request only",
            "pass --overwrite, or name another --out",
        )
    connection = ibis.duckdb.connect(**({} if threads is None else {"threads": threads}))
    raw = origin.splits(connection, source)
    logger.info("%s: %s", recipe.name, ", ".join(f"{split} {raw.tables[split].num_rows:,} rows" for split in SPLITS))
    vocabularies = build_vocabularies(connection, recipe, raw.tables["train"])
    parts = encode_splits(connection, recipe, raw.tables, vocabularies)
    schema = build_schema(recipe, vocabularies, parts)
    stats = build_stats(connection, recipe, parts, raw)
    with staged(out, replace=there is not None) as stage:
        write_dataset(stage, schema, digest, parts, vocabularies, stats, recipe.row_group_rows)
    return Summary.read(out, reused=False)


def build_vocabularies(connection: ibis.BaseBackend, recipe: Recipe, train: pa.Table) -> dict[str, pa.Table]:
    """The vocabulary of every table, from the training rows."""
    rows = ibis.memtable(train)
    return {
        role.name: connection.to_pyarrow(vocabulary(rows, role.column, role.min_count)).combine_chunks()
        for role in recipe.sparse
    }


def encode_splits(
    connection: ibis.BaseBackend,
    recipe: Recipe,
    raw: Mapping[Split, pa.Table],
    vocabularies: Mapping[str, pa.Table],
) -> dict[Split, pa.Table]:
    """The Parquet columns of every split, in the order of `position`."""
    tagged = [
        raw[split].append_column("split", pa.repeat(pa.scalar(order, pa.int8()), raw[split].num_rows))
        for order, split in enumerate(SPLITS)
    ]
    everything = pa.concat_tables(
        tagged
    )  # one query: to compile a join of dozens of tables takes longer than to run it
    rows = ibis.memtable(everything.rename_columns([f"raw__{name}" for name in everything.column_names]))
    entries = {name: ibis.memtable(table) for name, table in vocabularies.items()}
    rows = encode(rows, {role.name: f"raw__{role.column}" for role in recipe.sparse}, entries)
    dense = {role.name: rows[f"raw__{role.column}"].cast("float32") for role in recipe.dense}
    labels = {}
    for task in recipe.tasks:
        labels[task.label] = rows[f"raw__{task.label}"].cast("float32")
        if task.space is not None:
            labels[task.space] = rows[f"raw__{task.space}"].cast("boolean")
    names = [role.name for role in recipe.sparse]
    rows = rows.order_by("raw__split", "raw__position").select(*names, **dense, **labels)
    encoded = connection.to_pyarrow(rows).combine_chunks()
    parts, start = {}, 0
    for split in SPLITS:
        parts[split] = encoded.slice(start, raw[split].num_rows)
        start += raw[split].num_rows
    return parts


def build_schema(
    recipe: Recipe, vocabularies: Mapping[str, pa.Table], parts: Mapping[Split, pa.Table]
) -> DatasetSchema:
    """`schema.toml`, with the fingerprint of the schema, the vocabularies, the recipe and the source."""
    fields: dict[str, Any] = {
        "version": SCHEMA_VERSION,
        "name": recipe.name,
        "tables": tuple(Table(name=name, rows=table.num_rows + 1) for name, table in vocabularies.items()),
        "sparse": tuple(SparseFeature(name=role.name, table=role.name) for role in recipe.sparse),
        "dense": tuple(DenseFeature(name=role.name, normaliser=role.normaliser) for role in recipe.dense),
        "tasks": recipe.tasks,
        "splits": {
            split: SplitInfo(rows=table.num_rows, row_groups=row_groups(table.num_rows, recipe.row_group_rows))
            for split, table in parts.items()
        },
    }
    unnamed = DatasetSchema(fingerprint="", **fields)
    content = {
        "format": FORMAT_VERSION,
        "recipe": recipe.digest(),
        "schema": unnamed.model_dump(mode="json"),
        "vocabularies": {name: content_sha256(table) for name, table in vocabularies.items()},
    }
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return DatasetSchema(fingerprint=fingerprint, **fields)


def build_stats(
    connection: ibis.BaseBackend, recipe: Recipe, parts: Mapping[Split, pa.Table], raw: RawSplits
) -> dict[str, Any]:
    """`stats.json`, as `data_prep.stats` describes it."""
    names = [feature.name for feature in recipe.sparse] + [number.name for number in recipe.dense]
    columns: dict[str, dict[str, Any]] = {name: {} for name in names}
    tasks: dict[str, dict[str, Any]] = {task.name: {} for task in recipe.tasks}
    for split, part in parts.items():
        rows = ibis.memtable(part)
        misses = st.scalar_row(connection, st.sparse_stats(rows, [role.name for role in recipe.sparse]))
        for feature in recipe.sparse:
            missed = misses[feature.name]
            columns[feature.name][split] = {
                "rows": part.num_rows,
                "oov": missed,
                "oov_rate": st.rate(missed, part.num_rows),
            }
        for number in recipe.dense:
            pairs = connection.to_pyarrow(st.value_counts(rows, number.name)).to_pydict()
            columns[number.name][split] = st.dense_stats(pairs["value"], pairs["count"], part.num_rows)
        for task in recipe.tasks:
            pairs = connection.to_pyarrow(st.task_counts(rows, task)).to_pydict()
            tasks[task.name][split] = st.task_stats(task, pairs["value"], pairs["count"])
    return {
        "version": st.STATS_VERSION,
        "rows": {split: part.num_rows for split, part in parts.items()},
        "columns": columns,
        "tasks": tasks,
        "dropped": [asdict(dropped) for dropped in raw.dropped],
    }
