"""The parts of one split, in units that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.columns import DAY_COLUMN, GROUP_COLUMN, WEIGHT_COLUMN, label_column, space_columns, weights_column
from data_prep.days import quotient
from data_prep.dictionaries import Dictionaries
from data_prep.encode import encoded
from data_prep.engines.base import Engine
from data_prep.parts import PART, PartFile, PartLayout, read_part
from data_prep.progress import Progress
from data_prep.sources.files import POSITION
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError

MIN_ROW_GROUPS = 16  # of a split, where it has the rows, so that as many ranks can read it
DICTIONARY_ROWS = 65_536  # of a table, up to which its columns are dictionary-encoded
_NO_GROUP = -1  # the group of a row without one
_BAG_LENGTH = 16  # items that a bag of any length is taken to have, for what a unit takes in memory


class SplitWriter:
    """Writes the parts of a split; those that are there already are complete and stay.

    Args:
        engine: Computes the rows.
        config: The configuration.
        folder: Of the split.
        fingerprint: Of the dataset.
        made: The vocabularies.
        progress: Told how many rows are written.
    """

    def __init__(
        self,
        engine: Engine,
        config: PrepConfig,
        folder: Path,
        fingerprint: str,
        made: Dictionaries,
        progress: Progress,
    ) -> None:
        self.engine, self.config, self.folder, self.made, self.progress = engine, config, folder, made, progress
        self.fingerprint = fingerprint
        self.written: list[PartFile] = []

    def in_order(self, parts: Mapping[int, int], rows_of: Callable[[Sequence[int]], ir.Table]) -> None:
        """Write rows in the order of the log, a part of them for each part of the log that has any.

        Args:
            parts: Rows by part.
            rows_of: The rows of some parts, which follow one another in the log.
        """
        total = sum(parts.values())
        for unit in self._units(parts, total, None):
            rows = rows_of(unit)
            self._write(rows, [POSITION], total, None, sum(parts[part] for part in unit))

    def by_group(self, rows: ir.Table, total: int) -> None:
        """Write rows in the order of their group, then of the log; no group lies in two parts or two row groups.

        Args:
            rows: The rows.
            total: How many.
        """
        group = GROUP_COLUMN if self.config.group is not None else None
        key = rows[POSITION] if group is None else rows[group].fill_null(_NO_GROUP)
        cuts = self._cuts(rows.select(key=key), total)
        part: ir.IntegerValue = ibis.literal(0, "int32")
        for cut, _ in cuts[1:]:
            part = part + (key >= cut).cast("int32")
        ordered = rows.mutate(**{PART: part.cast("int32"), "__order": key})
        sizes = {i: size for i, (_, size) in enumerate(cuts)}
        for unit in self._units(sizes, total, group):
            chosen = ordered
            if len(unit) < len(cuts):
                chosen = ordered.filter(ordered["__order"] >= cuts[unit[0]][0])
                if unit[-1] + 1 < len(cuts):
                    chosen = chosen.filter(chosen["__order"] < cuts[unit[-1] + 1][0])
            self._write(chosen, ["__order", POSITION], total, group, sum(sizes[part] for part in unit))

    def _cuts(self, keys: ir.Table, total: int) -> list[tuple[int, int]]:
        """The first key of every part, and its rows: parts of about `part_rows`, cut between keys."""
        size = self.config.output.part_rows
        if total <= size:
            return [(_NO_GROUP, total)]
        counted = keys.group_by("key").aggregate(rows=keys.count())
        before = counted["rows"].sum().over(ibis.cumulative_window(order_by="key")) - counted["rows"]
        parts = counted.select("key", "rows", part=quotient(before.cast("int64"), size))
        cuts = parts.group_by("part").aggregate(first=parts["key"].min(), rows=parts["rows"].sum()).order_by("first")
        found = self.engine.fetch(cuts).to_pydict()
        return list(zip(found["first"], (int(rows) for rows in found["rows"]), strict=True))

    def _units(self, parts: Mapping[int, int], total: int, group: str | None) -> Iterator[list[int]]:
        """Parts that are not there yet, by neighbours that fit in memory together."""
        limit = self.engine.unit_rows(self._width())
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

    def _width(self) -> int:
        config = self.config
        bags = [(f.max_length or _BAG_LENGTH) * (1 if f.weights is None else 2) for f in config.sparse if f.bag]
        single = sum(not feature.bag for feature in config.sparse)
        return 4 + single + sum(bags) + len(config.dense) + 2 * len(config.tasks) + len(config.carry)

    def _write(self, rows: ir.Table, order: Sequence[str], total: int, group: str | None, count: int) -> None:
        out = encoded(rows, self.config.sparse, self.made.entries, self.made.tables)
        schema = self._schema(out)
        layout = PartLayout(
            folder=self.folder,
            schema=schema,
            fingerprint=self.fingerprint,
            dictionary=tuple(name for name in schema.names if self._few(name, schema.field(name).type)),
            row_group_rows=max(1, min(self.config.output.row_group_rows, total // MIN_ROW_GROUPS)),
            group=group,
        )
        done = 0
        for file in self.engine.write_parts(out, order, layout, self.progress.advance):
            self.written.append(file)
            done += file.rows
        if done != count:
            raise DataError(
                f"{self.folder.name} of the dataset",
                f"{done:,} rows came, {count:,} were counted before",
                "the raw files stay as they are while they are prepared",
                "run again when nothing writes to them",
            )

    def _few(self, name: str, kind: pa.DataType) -> bool:
        if pa.types.is_nested(kind):
            return False
        tables = {feature.name: self.made.tables[feature.table_name] for feature in self.config.sparse}
        return name != GROUP_COLUMN and (name not in tables or tables[name].allocated <= DICTIONARY_ROWS)

    def _schema(self, rows: ir.Table) -> pa.Schema:
        """Columns of a part, features first."""
        config, spaces = self.config, space_columns(self.config)
        names: list[str | None] = []
        for feature in config.sparse:
            names += [feature.name, weights_column(feature.name) if feature.weights is not None else None]
        names += [number.name for number in config.dense]
        for task in config.tasks:
            names += [label_column(task), spaces.get(task.name)]
        names += [WEIGHT_COLUMN, GROUP_COLUMN, DAY_COLUMN, *config.carry]
        chosen = [name for name in dict.fromkeys(names) if name is not None and name in rows.columns]
        return pa.schema([pa.field(name, _arrow(rows[name].type())) for name in chosen])

    def files(self) -> list[PartFile]:
        """Every part of the split, in order."""
        return sorted(self.written, key=lambda file: file.part)


def _arrow(kind: dt.DataType) -> pa.DataType:
    return pa.list_(_arrow(kind.value_type)) if isinstance(kind, dt.Array) else kind.to_pyarrow()
