"""Computation of `stats.json` from the parts (Parquet files) of a dataset; `data_prep.stats` describes its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.engines.base import Engine
from data_prep.stats import dense, drift, histories, ids, vectors
from data_prep.stats.extents import Extent, Range, extents
from data_prep.stats.labels import LabelStats, default_slices, label_columns, values_to_slice
from data_prep.stats.together import Parts, raw_values, rows_to_name
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema

STATS_VERSION = 2


def compute(
    engine: Engine,
    files: Mapping[Split, Sequence[Path]],
    schema: DatasetSchema,
    *,
    slices: Sequence[str] | None = None,
    vocabularies: Mapping[str, Path] | None = None,
    frozen_tables: Mapping[str, Path] | None = None,
    names: Mapping[str, Mapping[int, str]] | None = None,
    dropped: Sequence[Mapping[str, Any]] = (),
    overflow: Mapping[str, Mapping[str, Any]] | None = None,
    table_rows: Mapping[str, Mapping[str, int]] | None = None,
    source: Sequence[Mapping[str, Any]] = (),
    progress: Callable[[str], None] | None = None,
    exact_rows: int = dense.EXACT_ROWS,
    slice_stride: int = 1,
    groups: drift.Groups | None = None,
    json_texts: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the content of `stats.json`, which is the same on every engine and for any order of rows.

    Args:
        engine: Engine that computes. No result that is fetched from it has more than about a million rows.
        files: Parts by split. If rows have a time, the parts have a column `log_day`: days since 1970, in local time.
        schema: Schema of the dataset.
        slices: Columns by whose values the rows are sliced for means and correlations of labels; None for the first
            eight single-valued features with tables of at most 64 rows. For a column of more values, the 64 most
            frequent in train are used.
        vocabularies: Path of `vocab/<table>.parquet` by table.
        frozen_tables: Path of `vectors/<feature>.parquet` by vector feature.
        names: Texts for rows of tables without a vocabulary, such as the bounds of a bucket, by table and row.
        dropped: Entries `{split, rows, reason}` for the key `dropped`.
        overflow: Entries `{values, limit, handling}` for the key `overflow`, by table.
        table_rows: Entries `{in_use, free, assigned, freed}` for the key `table_rows`, by table; without entries, there
            is no such key.
        source: Entries for the key `source`, one for each raw file.
        progress: Callback that gets the name of the next step.
        exact_rows: Dense values are not rounded if no split has more rows than this.
        slice_stride: Distance between the rows of train that slices are computed on: 3 for every third row of a part.
        groups: Groups of rows that the split assigns as a whole; None if there are none.
        json_texts: Entries `{text, rows, nulls, not_json}` for the key `json`; without entries, there is no such key.
    """
    report = progress or (lambda _: None)
    report("ranges")
    parts = Parts(engine, files)
    extent_of = extents(parts, schema)
    report("sparse columns")
    lookups = ids.lookups(parts, schema, vocabularies or {}, extent_of)
    columns: dict[str, dict[Split, dict[str, Any]]] = {}
    drifts: dict[str, dict[str, Any]] = {}
    for feature in schema.sparse:
        each = lookups[feature.name]
        columns[feature.name] = {
            split: ids.describe(feature, each[split], extent_of[split], top=split == "train") for split in files
        }
        drifts[feature.name] = drift.sparse_drift(each["train"], each["valid"], each["test"], groups=groups)
    exact = all(extent.rows <= exact_rows for extent in extent_of.values())
    report("dense columns")
    numbers, rows = [number.name for number in schema.dense], sum(extent.rows for extent in extent_of.values())
    for name, column_counts, bits in dense.value_counts(parts, numbers, rows, exact=exact):
        columns[name], drifts[name] = _dense(name, column_counts, bits, extent_of, groups)
    for vector in schema.vectors:
        columns[vector.name] = vectors.describe(vector, files, (frozen_tables or {}).get(vector.name))
    for history in schema.histories:
        columns[history.name] = histories.describe(history.name, files)
    # Train shares no value of these columns with valid and test, so their PSI would say nothing.
    for name in groups.columns if groups is not None else ():
        drifts[name] |= {"psi": None, "chance": None}
    report("labels")
    sliced_columns = default_slices(schema) if slices is None else slices
    train = engine.read(files["train"], list(dict.fromkeys([*label_columns(schema.tasks), *sliced_columns])))
    sample = train if slice_stride == 1 else engine.read(files["train"], train.columns, slice_stride)
    labels = LabelStats(
        parts, schema, extent_of, values_to_slice(engine, train, schema, sliced_columns, lookups), sample
    )
    slice_stats = labels.slice_stats()
    raw = raw_values(vocabularies or {}, rows_to_name(columns, schema, slice_stats))
    named = {table: {str(row): text for row, text in sorted(rows.items())} for table, rows in (names or {}).items()}
    stats: dict[str, Any] = {
        "version": STATS_VERSION,
        "rows": {split: extent.rows for split, extent in extent_of.items()},
        "days": labels.day_stats(),
        "columns": columns,
        "tasks": labels.task_stats(),
        "correlation": labels.correlation_stats(),
        "slices": slice_stats,
        "drift": drifts,
        "values": raw | named,
        "dropped": [dict(entry) for entry in dropped],
        "overflow": {table: dict(entry) for table, entry in sorted((overflow or {}).items())},
        "source": [dict(entry) for entry in source],
    }
    if table_rows:
        stats["table_rows"] = {table: dict(entry) for table, entry in sorted(table_rows.items())}
    if groups is not None:
        stats["groups"] = groups.to_json()
    if json_texts:
        stats["json"] = [dict(entry) for entry in json_texts]
    return stats


def _dense(
    name: str,
    column_counts: Mapping[Split, dense.ColumnCounts],
    bits: int | None,
    extent_of: Mapping[Split, Extent],
    groups: drift.Groups | None,
) -> tuple[dict[Split, dict[str, Any]], dict[str, Any]]:
    """Return the statistics of a dense column by split, and its drift."""
    out = {
        split: dense.describe(column_counts[split], extent.rows, extent.ranges.get(name, Range()), bits)
        for split, extent in extent_of.items()
    }
    quantiles = out["train"]["quantiles"]
    step = (len(quantiles) - 1) // drift.BINS if quantiles else 1
    # Every 100th of the 1,001 quantiles, without the first and the last.
    deciles = quantiles[step:-1:step] if quantiles else None
    nulls = (out["train"]["nulls"], out["valid"]["nulls"] + out["test"]["nulls"])
    later = dense.merge_counts(column_counts["valid"], column_counts["test"])
    return out, drift.dense_drift(column_counts["train"], later, nulls, deciles, groups)
