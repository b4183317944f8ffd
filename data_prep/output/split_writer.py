"""The parts of one split, in units that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine, Unit
from data_prep.output.parts import NO_GROUP, PART, PartFile, PartLayout, read_part
from data_prep.progress import Progress
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import quotient
from data_prep.transforms.columns import (
    DAY_COLUMN,
    GROUP_COLUMN,
    WEIGHT_COLUMN,
    label_column,
    space_columns,
    weights_column,
)
from data_prep.transforms.encode import in_groups
from data_prep.vocabulary.build import Vocabularies
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError

MIN_ROW_GROUPS = 16  # of a split, where it has the rows, so that as many ranks can read it
DICTIONARY_ROWS = 65_536  # of a table, up to which its columns are dictionary-encoded
KEPT_CELLS = 2**28  # Rows of more cells are computed again by each query, for they would take much room on the disk.
_KEY, _AT = "__order", "__at"
_LEAST = -(2**63)
_BAG_LENGTH = 16  # items that a bag of any length is taken to have, for what a unit takes in memory


class _Cut(NamedTuple):
    """The beginning of a part in the order of groups, and its rows."""

    key: int
    at: int
    rows: int


def _from(rows: ir.Table, cut: _Cut) -> ir.BooleanValue:
    """Whether rows lie behind the beginning of a part."""
    return (rows[_KEY] > cut.key) | ((rows[_KEY] == cut.key) & (rows[_AT] >= cut.at))


class SplitWriter:
    """The parts of a split, as units that an engine writes; those that are there already are complete and stay.

    Args:
        engine: Computes the rows.
        config: The configuration.
        folder: Of the split.
        fingerprint: Of the dataset.
        made: The vocabularies.
        progress: Told of rows that are there already.
    """

    def __init__(
        self,
        engine: Engine,
        config: PrepConfig,
        folder: Path,
        fingerprint: str,
        made: Vocabularies,
        progress: Progress,
    ) -> None:
        self.engine, self.config, self.folder, self.made, self.progress = engine, config, folder, made, progress
        self.fingerprint = fingerprint
        self.written: list[PartFile] = []
        self._units = 0
        self._labels = {label_column(task) for task in config.tasks}
        self._table_names = {feature.name: feature.table_name for feature in config.sparse}

    def in_order(self, parts: Mapping[int, int], rows_of: Callable[[Sequence[int]], ir.Table]) -> Iterator[Unit]:
        """Rows in the order of the log, a part of them for each part of the log that has any.

        Args:
            parts: Rows by part.
            rows_of: The rows of some parts, which follow one another in the log.
        """
        total = sum(parts.values())
        for some in self._missing(parts):
            yield self._unit(rows_of(some), (POSITION,), total, None, sum(parts[part] for part in some))

    def by_group(self, rows: ir.Table, total: int) -> Iterator[Unit]:
        """Rows in the order of their group, then of the log; no group lies in two parts or two row groups.

        Rows without a group, or of group -1, which readers take for none, may be cut anywhere.

        Args:
            rows: The rows.
            total: How many.
        """
        group = GROUP_COLUMN if self.config.group is not None else None
        key = rows[POSITION] if group is None else rows[group].fill_null(NO_GROUP)
        ordered = rows.mutate(**{_KEY: key, _AT: ibis.ifelse(key == NO_GROUP, rows[POSITION], 0)})
        ordered = self.engine.named(ordered)  # translated once, not for each of the queries below
        cuts = self._cuts(ordered, total)
        part: ir.IntegerValue = ibis.literal(0, "int32")
        for cut in cuts[1:]:
            part = part + _from(ordered, cut).cast("int32")
        ordered = ordered.mutate(**{PART: part.cast("int32")})
        sizes = {i: cut.rows for i, cut in enumerate(cuts)}
        for some in self._missing(sizes):
            chosen = ordered
            if len(some) < len(cuts):
                chosen = ordered.filter(_from(ordered, cuts[some[0]]))
                if some[-1] + 1 < len(cuts):
                    chosen = chosen.filter(~_from(chosen, cuts[some[-1] + 1]))
            yield self._unit(chosen, (_KEY, POSITION), total, group, sum(sizes[part] for part in some))

    def _cuts(self, rows: ir.Table, total: int) -> list[_Cut]:
        """The beginning of every part, and its rows: parts of about `part_rows`, cut between keys."""
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

    def _missing(self, parts: Mapping[int, int]) -> Iterator[list[int]]:
        """Parts that are not there yet, by neighbours that make a unit."""
        size = self.config.output.part_rows
        share = -(-sum(parts.values()) // (self.engine.streams * size)) * size  # whole parts, so that all streams work
        limit = min(self.engine.unit_rows(columns_of(self.config)), share)
        unit: list[int] = []
        rows = 0
        for part in sorted(parts):
            path = self.folder / f"part-{part:05d}.parquet"
            if (there := read_part(path, part, self.fingerprint)) is not None and there.rows == parts[part]:
                self.written.append(there)
                self.progress.advance(parts[part])
                continue
            if unit and (part != unit[-1] + 1 or rows + parts[part] > limit):
                yield unit
                unit, rows = [], 0
            unit.append(part)
            rows += parts[part]
        if unit:
            yield unit

    def _unit(self, rows: ir.Table, order: tuple[str, ...], total: int, group: str | None, count: int) -> Unit:
        made, few = self.made, count * columns_of(self.config) <= KEPT_CELLS
        self._units += 1
        keep = f"unit_{self.folder.name}_{self._units}" if few else None
        tables = in_groups(self.engine, rows, [PART, *order], self.config.sparse, made.entries, made.tables, keep)
        schema = self._schema({name: table[name].type() for table in tables for name in table.columns})
        layout = PartLayout(
            folder=self.folder,
            schema=schema,
            fingerprint=self.fingerprint,
            dictionary=tuple(name for name in schema.names if self._few(name, schema.field(name).type)),
            row_group_rows=max(1, min(self.config.output.row_group_rows, total // MIN_ROW_GROUPS)),
            group=group,
        )
        return Unit(tables[0], order, layout, count, more=tuple(tables[1:]))

    def done(self, unit: Unit, files: Sequence[PartFile]) -> None:
        """A unit is written.

        Raises:
            DataError: It has other rows than were counted.
        """
        self.written += files
        if (rows := sum(file.rows for file in files)) != unit.count:
            raise DataError(
                f"{self.folder.name} of the dataset",
                f"{rows:,} rows came, {unit.count:,} were counted before",
                "the raw files stay as they are while they are prepared",
                "run again when nothing writes to them",
            )

    def _few(self, name: str, kind: pa.DataType) -> bool:
        if pa.types.is_nested(kind):
            return False
        if name in self._labels:  # of a few values they are compressed better as they are
            return False
        table = self._table_names.get(name)
        return name != GROUP_COLUMN and (table is None or self.made.tables[table].allocated <= DICTIONARY_ROWS)

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
        """Every part of the split, in order."""
        return sorted(self.written, key=lambda file: file.part)


def columns_of(config: PrepConfig) -> int:
    """Columns of a part, a bag as many as it has items."""
    bags = [(f.max_length or _BAG_LENGTH) * (1 if f.weights is None else 2) for f in config.sparse if f.bag]
    single = sum(not feature.bag for feature in config.sparse)
    return 4 + single + sum(bags) + len(config.dense) + 2 * len(config.tasks) + len(config.carry)


def _arrow(kind: dt.DataType) -> pa.DataType:
    return pa.list_(_arrow(kind.value_type)) if isinstance(kind, dt.Array) else kind.to_pyarrow()
