"""`stats.json` of a dataset whose parts are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.engines.base import Engine
from data_prep.stats import dense, drift, ids
from data_prep.stats.extents import Extent, Range, extents
from data_prep.stats.labels import Labels, default_slices, kept_values, label_columns
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
    names: Mapping[str, Mapping[int, str]] | None = None,
    dropped: Sequence[Mapping[str, Any]] = (),
    overflow: Mapping[str, Mapping[str, Any]] | None = None,
    source: Sequence[Mapping[str, Any]] = (),
    progress: Callable[[str], None] | None = None,
    exact_rows: int = dense.EXACT_ROWS,
    every: int = 1,
    groups: drift.Groups | None = None,
) -> dict[str, Any]:
    """The statistics of a dataset, as the package describes them; the same on every engine, for any order of rows.

    Args:
        engine: Computes; no result that it hands over has more than about a million rows.
        files: The written parts by split, with `log_day` (days since 1970, local) where rows have a time.
        schema: Of the dataset.
        slices: Columns by whose values labels are correlated; by default the first eight single-valued features with
            tables of at most 64 rows. Of a column of more values, the 64 most frequent in train.
        vocabularies: `vocab/<table>.parquet` by table.
        names: What rows mean where there is no vocabulary, by table and row, such as the bounds of a bucket.
        dropped: `{split, rows, reason}`, as they will stand in the file.
        overflow: `{values, limit, handling}` by table, as they will stand in the file.
        source: The raw files, as they will stand in the file.
        progress: Told what comes next.
        exact_rows: Up to so many rows in every split, dense values are not rounded.
        every: Distance, in a part, between the rows of train that slices are computed on.
        groups: Groups of rows that the split deals out whole, if it does.
    """
    tell = progress or (lambda _: None)
    tell("ranges")
    parts = Parts(engine, files)
    known = extents(parts, schema)
    tell("sparse columns")
    found = ids.lookups(parts, schema, vocabularies or {}, known)
    columns: dict[str, dict[Split, dict[str, Any]]] = {}
    drifts: dict[str, dict[str, Any]] = {}
    for feature in schema.sparse:
        each = found[feature.name]
        columns[feature.name] = {
            split: ids.describe(feature, each[split], known[split], top=split == "train") for split in files
        }
        drifts[feature.name] = drift.sparse_drift(each["train"], each["valid"], each["test"], groups=groups)
    exact = all(extent.rows <= exact_rows for extent in known.values())
    tell("dense columns")
    numbers, rows = [number.name for number in schema.dense], sum(extent.rows for extent in known.values())
    for name, pairs, bits in dense.value_pairs(parts, numbers, rows, exact=exact):
        columns[name], drifts[name] = _dense(name, pairs, bits, known, groups)
    for name in groups.columns if groups is not None else ():
        drifts[name] |= {"psi": None, "chance": None}
    tell("labels")
    chosen = default_slices(schema) if slices is None else slices
    train = engine.read(files["train"], list(dict.fromkeys([*label_columns(schema.tasks), *chosen])))
    sample = train if every == 1 else engine.read(files["train"], train.columns, every)
    labels = Labels(parts, schema, known, kept_values(engine, train, schema, chosen, found), sample)
    sliced = labels.of_slices()
    read = raw_values(vocabularies or {}, rows_to_name(columns, schema, sliced))
    given = {table: {str(row): text for row, text in sorted(rows.items())} for table, rows in (names or {}).items()}
    return {
        "version": STATS_VERSION,
        "rows": {split: extent.rows for split, extent in known.items()},
        "days": labels.of_days(),
        "columns": columns,
        "tasks": labels.of_tasks(),
        "correlation": labels.of_correlation(),
        "slices": sliced,
        "drift": drifts,
        "values": read | given,
        "dropped": [dict(entry) for entry in dropped],
        "overflow": {table: dict(entry) for table, entry in sorted((overflow or {}).items())},
        "source": [dict(entry) for entry in source],
    } | ({} if groups is None else {"groups": groups.to_json()})


def _dense(
    name: str,
    pairs: Mapping[Split, dense.Pairs],
    bits: int | None,
    known: Mapping[Split, Extent],
    groups: drift.Groups | None,
) -> tuple[dict[Split, dict[str, Any]], dict[str, Any]]:
    """Return the figures of a dense column by split, and its drift."""
    out = {
        split: dense.describe(pairs[split], extent.rows, extent.ranges.get(name, Range()), bits)
        for split, extent in known.items()
    }
    quantiles = out["train"]["quantiles"]
    step = (len(quantiles) - 1) // drift.BINS if quantiles else 1
    deciles = quantiles[step:-1:step] if quantiles else None
    nulls = (out["train"]["nulls"], out["valid"]["nulls"] + out["test"]["nulls"])
    later = dense.together_of(pairs["valid"], pairs["test"])
    return out, drift.dense_drift(pairs["train"], later, nulls, deciles, groups)
