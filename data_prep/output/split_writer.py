"""Writing of the parts of one split, in units that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import PART, Engine, PartFile, Unit
from data_prep.engines.look_up import Entries
from data_prep.output.parts import PartLayout, read_part
from data_prep.progress import Progress
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import quotient
from data_prep.transforms.columns import (
    DAY_COLUMN,
    GROUP_COLUMN,
    NO_GROUP,
    WEIGHT_COLUMN,
    label_column,
    space_columns,
    weights_column,
)
from data_prep.transforms.encode import in_groups
from ple_rec.config.prep import PrepConfig
from ple_rec.config.schema import Table
from ple_rec.errors import DataError

MIN_ROW_GROUPS = 16  # A split of enough rows has so many row groups, so that as many ranks can read it.
DICTIONARY_ROWS = 65_536  # Columns whose table has at most so many rows are dictionary-encoded.
KEPT_CELLS = 2**28  # Rows of more cells are computed again by each query, since they would fill the disk.
_KEY, _AT = "__order", "__at"
_LEAST = -(2**63)
_BAG_LENGTH = 16  # The memory of a unit is estimated with so many items for a bag without `max_length`.


class _Cut(NamedTuple):
    """First key of a part in the order of groups, and the number of its rows."""

    key: int
    at: int
    rows: int


def _from(rows: ir.Table, cut: _Cut) -> ir.BooleanValue:
    """Return True for rows at or after the beginning of a part."""
    return (rows[_KEY] > cut.key) | ((rows[_KEY] == cut.key) & (rows[_AT] >= cut.at))


class SplitWriter:
    """Units of a split that an engine writes; parts that a stopped run has completed are kept.

    Args:
        engine: Engine that computes the rows.
        config: Configuration with the values that were taken from the log.
        folder: Folder of the split's parts.
        fingerprint: Fingerprint of the dataset.
        vocabularies: Vocabularies by table; bucketised features have none.
        tables: Tables by name.
        progress: Progress, to which the rows of complete parts are added.
    """

    def __init__(
        self,
        engine: Engine,
        config: PrepConfig,
        folder: Path,
        fingerprint: str,
        vocabularies: Mapping[str, Entries],
        tables: Mapping[str, Table],
        progress: Progress,
    ) -> None:
        self.engine, self.config, self.folder, self.progress = engine, config, folder, progress
        self.fingerprint, self.vocabularies, self.tables = fingerprint, vocabularies, tables
        self.written: list[PartFile] = []
        self._units = 0
        self._labels = {label_column(task) for task in config.tasks}
        self._table_names = {feature.name: feature.table_name for feature in config.sparse}

    def in_order(self, parts: Mapping[int, int], rows_of: Callable[[Sequence[int]], ir.Table]) -> Iterator[Unit]:
        """Yield units whose rows are in the order of the log; each part of the log with rows becomes a part.

        Args:
            parts: Number of rows by part.
            rows_of: Function that returns the rows of consecutive parts.
        """
        total = sum(parts.values())
        for some in self._into_units(self._without_complete(parts), total):
            yield self._unit(rows_of(some), (POSITION,), total, None, sum(parts[part] for part in some))

    def by_group(self, rows: ir.Table, total: int) -> Iterator[Unit]:
        """Yield units whose rows are in the order of their group, then of the log.

        No group lies in two parts or two row groups. Rows without a group, or of group -1, which readers take for
        none, may be cut anywhere.

        Args:
            rows: Rows of the split.
            total: Number of the rows.
        """
        group = GROUP_COLUMN if self.config.group is not None else None
        key = rows[POSITION] if group is None else rows[group].fill_null(NO_GROUP)
        ordered = rows.mutate(**{_KEY: key, _AT: ibis.ifelse(key == NO_GROUP, rows[POSITION], 0)})
        ordered = self.engine.named(ordered)  # The expressions are compiled once for all queries below.
        cuts = self._cuts(ordered, total)
        part: ir.IntegerValue = ibis.literal(0, "int32")
        for cut in cuts[1:]:
            part = part + _from(ordered, cut).cast("int32")
        ordered = ordered.mutate(**{PART: part.cast("int32")})
        sizes = {i: cut.rows for i, cut in enumerate(cuts)}
        for some in self._into_units(self._without_complete(sizes), total):
            chosen = ordered
            if len(some) < len(cuts):
                chosen = ordered.filter(_from(ordered, cuts[some[0]]))
                if some[-1] + 1 < len(cuts):
                    chosen = chosen.filter(~_from(chosen, cuts[some[-1] + 1]))
            yield self._unit(chosen, (_KEY, POSITION), total, group, sum(sizes[part] for part in some))

    def _cuts(self, rows: ir.Table, total: int) -> list[_Cut]:
        """Return the cuts between parts of about `part_rows` rows; a cut lies between two keys."""
        size = self.config.output.part_rows
        if total <= size:
            return [_Cut(_LEAST, 0, total)]
        counted = rows.group_by([_KEY, _AT]).aggregate(rows=rows.count().cast("int64"))
        order = [_KEY, _AT]
        before = counted["rows"].sum().over(ibis.cumulative_window(order_by=order)) - counted["rows"]
        parts = counted.mutate(part=quotient(before.cast("int64"), size))
        parts = parts.mutate(last=parts["part"].lag().over(ibis.window(order_by=order)))
        sizes = parts.group_by("part").aggregate(rows=parts["rows"].sum().cast("int64")).order_by("part")
        begins = parts.filter(parts["last"].isnull() | (parts["last"] != parts["part"])).order_by("part")
        first = self.engine.fetch(begins.select(key=_KEY, at=_AT)).to_pylist()
        rows_of = self.engine.fetch(sizes)["rows"].to_pylist()
        return [_Cut(begin["key"], begin["at"], count) for begin, count in zip(first, rows_of, strict=True)]

    def _without_complete(self, parts: Mapping[int, int]) -> dict[int, int]:
        """Record the parts that a stopped run has completed, and return the rows of the others."""
        missing = {}
        for part in sorted(parts):
            file = read_part(self.folder / f"part-{part:05d}.parquet", part, self.fingerprint)
            if file is not None and file.rows == parts[part]:
                self.written.append(file)
                self.progress.advance(file.rows)
            else:
                missing[part] = parts[part]
        return missing

    def _into_units(self, parts: Mapping[int, int], total: int) -> Iterator[list[int]]:
        """Yield runs of consecutive parts that fit in memory together.

        Args:
            parts: Number of rows by part, ascending.
            total: Rows of the split, of which each stream of the engine gets a share of whole parts.
        """
        size = self.config.output.part_rows
        share = -(-total // (self.engine.streams * size)) * size
        limit = min(self.engine.unit_rows(columns_of(self.config)), share)
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
        self._units += 1
        keep = f"unit_{self.folder.name}_{self._units}" if count * columns_of(self.config) <= KEPT_CELLS else None
        keys, features = [PART, *order], self.config.sparse
        tables = in_groups(self.engine, rows, keys, features, self.vocabularies, self.tables, keep)
        schema = self._schema({name: table[name].type() for table in tables for name in table.columns})
        layout = PartLayout(
            folder=self.folder,
            schema=schema,
            fingerprint=self.fingerprint,
            dictionary=tuple(name for name in schema.names if self._has_few_values(name, schema.field(name).type)),
            row_group_rows=max(1, min(self.config.output.row_group_rows, total // MIN_ROW_GROUPS)),
            group=group,
        )
        return Unit(tables[0], order, layout, count, more=tuple(tables[1:]))

    def done(self, unit: Unit, files: Sequence[PartFile]) -> None:
        """Record the parts of a unit that has been written.

        Raises:
            DataError: The unit has other rows than were counted.
        """
        self.written += files
        if (rows := sum(file.rows for file in files)) != unit.count:
            raise DataError(
                f"{self.folder.name} of the dataset",
                f"{rows:,} rows came, {unit.count:,} were counted before",
                "the raw files stay as they are while they are prepared",
                "run again when nothing writes to them",
            )

    def _has_few_values(self, name: str, kind: pa.DataType) -> bool:
        if pa.types.is_nested(kind):
            return False
        if name in self._labels:  # Labels are compressed better without a dictionary.
            return False
        table = self._table_names.get(name)
        return name != GROUP_COLUMN and (table is None or self.tables[table].allocated <= DICTIONARY_ROWS)

    def _schema(self, types: Mapping[str, dt.DataType]) -> pa.Schema:
        """Return the columns of a part, features first."""
        config, spaces = self.config, space_columns(self.config)
        names: list[str | None] = []
        for feature in config.sparse:
            names += [feature.name, weights_column(feature.name) if feature.weights is not None else None]
        names += [number.name for number in config.dense]
        for task in config.tasks:
            names += [label_column(task), spaces.get(task.name)]
        names += [WEIGHT_COLUMN, GROUP_COLUMN, DAY_COLUMN, *config.carry]
        chosen = [name for name in dict.fromkeys(names) if name is not None and name in types]
        return pa.schema([pa.field(name, _arrow(types[name])) for name in chosen])

    def files(self) -> list[PartFile]:
        """Return every part of the split, in order."""
        return sorted(self.written, key=lambda file: file.part)


def columns_of(config: PrepConfig) -> int:
    """Return the columns of a part; a bag counts as many columns as it has items."""
    bags = [(f.max_length or _BAG_LENGTH) * (1 if f.weights is None else 2) for f in config.sparse if f.bag]
    single = sum(not feature.bag for feature in config.sparse)
    return 4 + single + sum(bags) + len(config.dense) + 2 * len(config.tasks) + len(config.carry)


def _arrow(kind: dt.DataType) -> pa.DataType:
    return pa.list_(_arrow(kind.value_type)) if isinstance(kind, dt.Array) else kind.to_pyarrow()
