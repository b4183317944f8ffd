"""Division of a split into parts (its Parquet files), and of the parts into units that an engine writes.

A *unit* is a run of consecutive parts whose rows are computed, sorted and written together, as many as fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import PART, Engine, PartFile, Unit
from data_prep.engines.look_up import LookupTable
from data_prep.output.parts import ParquetPartSink, read_part
from data_prep.progress import Progress
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import quotient
from data_prep.transforms.columns import (
    DAY_COLUMN,
    GROUP_COLUMN,
    NO_GROUP,
    SUBGROUP_COLUMN,
    WEIGHT_COLUMN,
    history_columns,
    label_column,
    space_columns,
    weights_column,
)
from data_prep.transforms.encode import encode_in_groups
from ple_rec.config.prep import PrepConfig, VectorSpec
from ple_rec.config.schema import Table
from ple_rec.errors import DataError

MIN_ROW_GROUPS = 16  # Least number of row groups of a split of 16 rows or more, so that 16 ranks can read it.
DICTIONARY_ROWS = 65_536  # Most rows of an embedding table whose column of ids is dictionary-encoded.
# Rows that several queries read are stored if they have at most this many cells. More cells would fill the disk, so
# each query computes the rows again.
MAX_KEPT_CELLS = 2**28
# Columns by which rows are divided into parts. `_KEY` is the group, or the position if the log has no groups. `_TIE` is
# the position of a row without a group, so that such rows can be divided anywhere, and 0 for any other row.
# `_SUBGROUP` is the subgroup, by which the rows of a group are sorted.
_KEY, _TIE, _SUBGROUP = "__order", "__at", "__within"
_INT64_MIN = -(2**63)
_BAG_LENGTH = 16  # Items of a bag without `max_length`, in the estimate of the memory that a unit takes.


class _PartStart(NamedTuple):
    """Beginning of a part in rows that are sorted by group, and the number of its rows.

    Args:
        key: Value of `_KEY` in its first row.
        tie: Value of `_TIE` in its first row.
        rows: Number of rows of the part.
    """

    key: int
    tie: int
    rows: int


def _is_at_or_after(rows: ir.Table, part_start: _PartStart) -> ir.BooleanValue:
    """Return a condition that is true for rows at or after the beginning of a part."""
    return (rows[_KEY] > part_start.key) | ((rows[_KEY] == part_start.key) & (rows[_TIE] >= part_start.tie))


class SplitWriter:
    """Writer of one split: it yields units for an engine to write, and records the parts that were written.

    Parts that a stopped run has completed are recorded, too, and belong to no unit.

    Args:
        engine: Engine that computes the rows.
        config: Configuration, with the values that are computed from the log filled in.
        folder: Folder of the split's parts.
        fingerprint: Fingerprint of the dataset, by which parts of a stopped run are recognised.
        vocabularies: Vocabularies by table; bucketised features have none.
        tables: Embedding tables by name.
        progress: Progress, to which the rows of parts that a stopped run has completed are added.
    """

    def __init__(
        self,
        engine: Engine,
        config: PrepConfig,
        folder: Path,
        fingerprint: str,
        vocabularies: Mapping[str, LookupTable],
        tables: Mapping[str, Table],
        progress: Progress,
    ) -> None:
        self.engine, self.config, self.folder, self.progress = engine, config, folder, progress
        self.fingerprint, self.vocabularies, self.tables = fingerprint, vocabularies, tables
        self.written: list[PartFile] = []
        self._unit_count = 0
        self._labels = {label_column(task) for task in config.tasks}
        self._histories = set(history_columns(config))
        self._table_names = {feature.name: feature.table_name for feature in config.sparse}
        self._widths = {vector.name: vector.width for vector in config.vectors}

    def units_in_log_order(
        self, parts: Mapping[int, int], rows_of_parts: Callable[[Sequence[int]], ir.Table]
    ) -> Iterator[Unit]:
        """Yield units whose rows are in the order of the log.

        Args:
            parts: Number of rows of each part, by number of the part.
            rows_of_parts: Function from the numbers of consecutive parts to their rows.
        """
        total = sum(parts.values())
        for unit_parts in self._group_into_units(self._skip_complete(parts), total):
            yield self._unit(
                rows_of_parts(unit_parts), (POSITION,), total, None, sum(parts[part] for part in unit_parts)
            )

    def units_by_group(self, rows: ir.Table, total: int) -> Iterator[Unit]:
        """Yield units whose rows are sorted by group, then by subgroup if there is one, then by position in the log.

        The rows of a group stay in one part and one row group. Rows without a group, or with the group -1, which means
        the same, may be divided anywhere.

        Args:
            rows: Rows of the split.
            total: Number of rows.
        """
        group = GROUP_COLUMN if self.config.group is not None else None
        key = rows[POSITION] if group is None else rows[group].fill_null(NO_GROUP)
        ordered = rows.mutate(**{_KEY: key, _TIE: ibis.ifelse(key == NO_GROUP, rows[POSITION], 0)})
        order: tuple[str, ...] = (_KEY, POSITION)
        if self.config.has_subgroups:
            ordered = ordered.mutate(**{_SUBGROUP: rows[SUBGROUP_COLUMN].fill_null(NO_GROUP)})
            order = (_KEY, _SUBGROUP, POSITION)
        ordered = self.engine.create_view(ordered)  # So the expressions are compiled once for all queries.
        part_starts = self._find_part_starts(ordered, total)
        part: ir.IntegerValue = ibis.literal(0, "int32")
        for part_start in part_starts[1:]:
            part = part + _is_at_or_after(ordered, part_start).cast("int32")
        ordered = ordered.mutate(**{PART: part.cast("int32")})
        sizes = {i: part_start.rows for i, part_start in enumerate(part_starts)}
        for unit_parts in self._group_into_units(self._skip_complete(sizes), total):
            chosen = ordered
            if len(unit_parts) < len(part_starts):
                chosen = ordered.filter(_is_at_or_after(ordered, part_starts[unit_parts[0]]))
                if unit_parts[-1] + 1 < len(part_starts):
                    chosen = chosen.filter(~_is_at_or_after(chosen, part_starts[unit_parts[-1] + 1]))
            yield self._unit(chosen, order, total, group, sum(sizes[part] for part in unit_parts))

    def _find_part_starts(self, rows: ir.Table, total: int) -> list[_PartStart]:
        """Return the beginnings of parts of about `output.part_rows` rows; no part begins inside a group."""
        size = self.config.output.part_rows
        if total <= size:
            return [_PartStart(_INT64_MIN, 0, total)]
        counted = rows.group_by([_KEY, _TIE]).aggregate(rows=rows.count().cast("int64"))
        order = [_KEY, _TIE]
        before = counted["rows"].sum().over(ibis.cumulative_window(order_by=order)) - counted["rows"]
        parts = counted.mutate(part=quotient(before.cast("int64"), size))
        parts = parts.mutate(last=parts["part"].lag().over(ibis.window(order_by=order)))
        sizes = parts.group_by("part").aggregate(rows=parts["rows"].sum().cast("int64")).order_by("part")
        begins = parts.filter(parts["last"].isnull() | (parts["last"] != parts["part"])).order_by("part")
        starts = self.engine.fetch(begins.select(key=_KEY, tie=_TIE)).to_pylist()
        counts = self.engine.fetch(sizes)["rows"].to_pylist()
        return [_PartStart(begin["key"], begin["tie"], count) for begin, count in zip(starts, counts, strict=True)]

    def _skip_complete(self, parts: Mapping[int, int]) -> dict[int, int]:
        """Record the parts that a stopped run has completed; return the number of rows of each other part."""
        missing = {}
        for part in sorted(parts):
            file = read_part(self.folder / f"part-{part:05d}.parquet", part, self.fingerprint)
            if file is not None and file.rows == parts[part]:
                self.written.append(file)
                self.progress.advance(file.rows)
            else:
                missing[part] = parts[part]
        return missing

    def _group_into_units(self, parts: Mapping[int, int], total: int) -> Iterator[list[int]]:
        """Yield runs of consecutive parts that fit in memory together.

        Args:
            parts: Number of rows of each part, in ascending order of the parts.
            total: Number of rows of the split. A unit has at most a share of it, rounded up to whole parts: one share
                for each unit that the engine writes concurrently.
        """
        size = self.config.output.part_rows
        share = -(-total // (self.engine.max_concurrent_units * size)) * size
        limit = min(self.engine.max_unit_rows(column_count(self.config)), share)
        unit: list[int] = []
        rows = 0
        for part, count in parts.items():
            if unit and (part != unit[-1] + 1 or rows + count > limit):
                yield unit
                unit, rows = [], 0
            unit.append(part)
            rows += count
        if unit:
            yield unit

    def _unit(self, rows: ir.Table, order: tuple[str, ...], total: int, group: str | None, count: int) -> Unit:
        """Return the unit of `count` encoded rows of the `total` of the split, with the sink that writes its parts."""
        self._unit_count += 1
        name = (  # Name under which the engine stores the rows; None to compute them again for each query.
            f"unit_{self.folder.name}_{self._unit_count}"
            if count * column_count(self.config) <= MAX_KEPT_CELLS
            else None
        )
        keys, features = [PART, *order], self.config.sparse
        tables = encode_in_groups(self.engine, rows, keys, features, self.vocabularies, self.tables, name)
        schema = self._schema({name: table[name].type() for table in tables for name in table.columns})
        sink = ParquetPartSink(
            folder=self.folder,
            schema=schema,
            fingerprint=self.fingerprint,
            dictionary_columns=tuple(
                name for name in schema.names if self._uses_dictionary(name, schema.field(name).type)
            ),
            row_group_rows=max(1, min(self.config.output.row_group_rows, total // MIN_ROW_GROUPS)),
            group=group,
        )
        return Unit(tables[0], order, sink, count, more_columns=tuple(tables[1:]))

    def record_written(self, unit: Unit, files: Sequence[PartFile]) -> None:
        """Record the parts of a unit that has been written.

        Raises:
            DataError: The unit has another number of rows than was counted.
        """
        self.written += files
        if (rows := sum(file.rows for file in files)) != unit.row_count:
            raise DataError(
                f"{self.folder.name} of the dataset",
                f"{rows:,} rows were written, but {unit.row_count:,} had been counted",
                "the raw files stay as they are while they are prepared",
                "run again when nothing writes to them",
            )

    def _uses_dictionary(self, name: str, kind: pa.DataType) -> bool:
        if pa.types.is_nested(kind):
            return False
        if name in self._labels or name in self._histories:  # They are compressed better without a dictionary.
            return False
        table = self._table_names.get(name)
        return name not in (GROUP_COLUMN, SUBGROUP_COLUMN) and (
            table is None or self.tables[table].allocated_rows <= DICTIONARY_ROWS
        )

    def _schema(self, types: Mapping[str, dt.DataType]) -> pa.Schema:
        """Return the schema of a part, with the features first."""
        config, spaces = self.config, space_columns(self.config)
        names: list[str | None] = []
        for feature in config.sparse:
            names += [feature.name, weights_column(feature.name) if feature.weights is not None else None]
        names += [feature.name for feature in (*config.dense_features, *config.vectors)]
        for task in config.tasks:
            names += [label_column(task), spaces.get(task.name)]
        names += [WEIGHT_COLUMN, GROUP_COLUMN, SUBGROUP_COLUMN, DAY_COLUMN, *config.carry, *history_columns(config)]
        chosen = [name for name in dict.fromkeys(names) if name is not None and name in types]
        return pa.schema([pa.field(name, _arrow_type(types[name], self._widths.get(name, -1))) for name in chosen])

    def files(self) -> list[PartFile]:
        """Return all parts of the split, in order."""
        return sorted(self.written, key=lambda file: file.part)


def column_count(config: PrepConfig) -> int:
    """Return about the number of columns of a part, to estimate memory.

    A bag (a column of lists) and a vector count once per item. A vector that is a column of a side table counts once,
    since its frozen table has the items.

    The 4 stands for columns that are neither features nor of a task nor carried, such as weight, group and day.
    """
    bags = [(f.max_length or _BAG_LENGTH) * (1 if f.weights is None else 2) for f in config.sparse if f.bag]
    single = sum(not feature.bag for feature in config.sparse)
    numbers = len(config.dense_features) + sum(_stored_numbers(vector, config) for vector in config.vectors)
    return 4 + single + sum(bags) + numbers + 2 * len(config.tasks) + len(config.carry) + len(history_columns(config))


def query_column_count(config: PrepConfig) -> int:
    """Return about the number of columns that a query computes: that of `column_count`, with a column for each vector.

    Features of rates do not count, since a query only reads their columns, which are computed before.
    """
    vectors = sum(_stored_numbers(vector, config) - 1 for vector in config.vectors)
    return column_count(config) - vectors - (len(config.dense_features) - len(config.dense))


def _stored_numbers(vector: VectorSpec, config: PrepConfig) -> int:
    """Return how many numbers of a vector a row of a part has: one, a row number, if there is a frozen table."""
    side, _, column = vector.source.partition(".")
    return 1 if side in config.sides and column.isidentifier() else vector.width


def _arrow_type(kind: dt.DataType, width: int = -1) -> pa.DataType:
    """Return the Arrow type of an Ibis type; `width` is the length of every list of a vector feature, else -1."""
    return pa.list_(_arrow_type(kind.value_type), width) if isinstance(kind, dt.Array) else kind.to_pyarrow()
