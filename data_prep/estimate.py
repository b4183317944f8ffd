"""What the derived rows of a sample tell of a log: distinct values of train, and the bytes of a row of the parts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.columns import DAY, REASON, SPLIT, weights_column
from data_prep.parent import Parent
from data_prep.parts import COMPRESSION, COMPRESSION_LEVEL
from ple_rec.config.base import SPLITS
from ple_rec.config.prep import PrepConfig, SparseSpec, TableSpec


@dataclass(frozen=True)
class Guess:
    """Distinct values that get a row: of the training rows of the sample, and expected of all."""

    sampled: int
    expected: int


@dataclass(frozen=True)
class Estimate:
    """What a sample tells.

    Args:
        counts: Its rows by split and reason.
        days: Splits that the good rows of each day lie in, days from 1970-01-01; empty where rows have no time.
        guesses: By feature with a vocabulary.
        tables: Guess for each table with a vocabulary: how many values occur as often as it demands; on top of a
            parent, how many of these have no row there.
        row_bytes: Bytes of a row of the parts.
    """

    counts: Mapping[tuple[int, int], int]
    days: Mapping[int, Set[int]]
    guesses: Mapping[str, Guess]
    tables: Mapping[str, Guess]
    row_bytes: float

    @property
    def rows(self) -> int:
        """Of the sample."""
        return sum(self.counts.values())

    @property
    def written(self) -> int:
        """Rows of the sample that lie in a split."""
        return sum(count for (split, reason), count in self.counts.items() if split >= 0 and not reason)


def columns_needed(names: list[str]) -> list[str]:
    """Return the columns of derived rows that an estimate takes: of the parts, raw values, split, day and reason."""
    return [name for name in names if not name.startswith("__") or name in (SPLIT, DAY, REASON)]


def estimate(rows: pa.Table, config: PrepConfig, scale: float, parent: Parent | None = None) -> Estimate:
    """What a sample tells.

    Args:
        rows: The `columns_needed` of its derived rows, in the order of the log.
        config: The configuration, settled.
        scale: Rows of the log for each of the sample.
        parent: Dataset whose values have their rows already.
    """
    counts, days = Counter[tuple[int, int]](), defaultdict[int, set[int]](set)
    for row in rows.group_by([SPLIT, DAY, REASON]).aggregate([([], "count_all")]).to_pylist():
        counts[row[SPLIT], row[REASON]] += row["count_all"]
        if row[DAY] is not None and not row[REASON]:
            days[row[DAY]].add(row[SPLIT])
    parts = {name: rows[name] for name in rows.column_names if not name.startswith(("__", "raw__", "weights__"))}
    train = pc.and_(pc.equal(rows[SPLIT], SPLITS.index("train")), pc.equal(rows[REASON], 0))
    guesses, values = {}, defaultdict[str, list[pa.Array]](list)
    for feature in config.sparse:
        raw = rows[f"raw__{feature.name}"].combine_chunks()
        if feature.bucketised:
            parts[feature.name] = _buckets(raw, feature)
            continue
        parts[feature.name] = _numbered(raw)
        seen = values_of(raw.filter(train.combine_chunks()))
        values[feature.table_name].append(seen)
        guesses[feature.name] = _guess([seen], scale)
        if feature.weights is not None:
            parts[weights_column(feature.name)] = rows[f"weights__{feature.name}"]
    specs = {table: config.tables.get(table, TableSpec()) for table in values}
    known = {} if parent is None else parent.vocabularies
    tables = {table: _guess(some, scale, specs[table].min_count, known.get(table)) for table, some in values.items()}
    return Estimate(counts, days, guesses, tables, _row_bytes(pa.table(parts)))


def _guess(values: Sequence[pa.Array], scale: float, least: int = 1, known: Path | None = None) -> Guess:
    """GEE (Charikar et al., 2000): sqrt(N / n) f_1 + sum of f_j, j > 1; f_j: values seen j times in n of N rows.

    Args:
        values: Values of one or more columns.
        scale: N / n.
        least: Times that a value must be expected in all N rows to be counted.
        known: Vocabulary whose values are not counted.
    """
    counted = pa.chunked_array(values).value_counts()
    counted = counted.filter(pc.greater_equal(pc.multiply(counted.field("counts"), scale), least))
    counts = counted.field("counts") if known is None else _new(counted, known).field("counts")
    once = int(pc.sum(pc.equal(counts, 1)).as_py() or 0)
    return Guess(len(counts), round(len(counts) - once + math.sqrt(scale) * once))


def _new(counted: pa.StructArray, known: Path) -> pa.StructArray:
    """The counted values that a vocabulary does not have, which is read in batches."""
    with pq.ParquetFile(known) as file:
        for batch in file.iter_batches(columns=["raw"]):
            values = counted.field("values")
            counted = counted.filter(pc.invert(pc.is_in(values, value_set=batch["raw"].cast(values.type))))
    return counted


def _is_bag(raw: pa.Array) -> bool:
    return bool(pa.types.is_list(raw.type) or pa.types.is_large_list(raw.type))


def values_of(raw: pa.Array) -> pa.Array:
    """Return the values of a column, those of bags one by one, without the missing ones."""
    return (raw.flatten() if _is_bag(raw) else raw).drop_null()


def _numbered(raw: pa.Array) -> pa.Array:
    """Rows of a table for values or bags of them, the most frequent value first."""
    bags = _is_bag(raw)
    values = raw.flatten() if bags else raw
    counted = values_of(raw).value_counts()
    ranked = counted.field("values").take(pc.sort_indices(counted.field("counts"), sort_keys=[("", "descending")]))
    rows = pc.add(pc.index_in(values, value_set=ranked), pa.scalar(1, pa.int32())).fill_null(0)
    if bags:
        lengths = pc.list_value_length(raw).fill_null(0).cast(pa.int32())
        ends = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
        rows = pa.ListArray.from_arrays(ends, rows)
    return rows


def _buckets(raw: pa.Array, feature: SparseSpec) -> pa.Array:
    row = pc.if_else(raw.is_valid(), pa.scalar(1, pa.int32()), 0)
    for edge in feature.edges or ():
        row = pc.add(row, pc.greater_equal(raw, edge).fill_null(False).cast(pa.int32()))
    return row


def _row_bytes(table: pa.Table) -> float:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=COMPRESSION, compression_level=COMPRESSION_LEVEL)
    size: int = sink.getvalue().size
    return size / max(int(table.num_rows), 1)
