"""Statistics of labels by split, by day, and by the values of columns that slice the train split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.engines.base import Engine
from data_prep.stats import cells as ce
from data_prep.stats.correlation import correlations, shift
from data_prep.stats.extents import Extent
from data_prep.stats.ids import TOP_ROWS, Lookups
from data_prep.stats.together import SPLIT, Parts, apart, together
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, Task

DAY = "log_day"
SLICES, SLICE_ROWS = 8, 64  # Columns that are sliced by default, and the largest table of such a column.
COMBINATIONS = 2**13  # Combinations of values of the columns that one query groups by.


class Labels:
    """Tallies of every split over all rows, by day, and by value of the sliced columns of train.

    Args:
        parts: Parts of the dataset.
        schema: Schema of the dataset.
        extents: Extent of each split.
        slices: Values of each sliced column that are counted; None for all values.
        sample: Rows of train for the slices, with their columns and those of the labels.
    """

    def __init__(
        self,
        parts: Parts,
        schema: DatasetSchema,
        extents: Mapping[Split, Extent],
        slices: Mapping[str, Sequence[Any] | None],
        sample: ir.Table,
    ) -> None:
        self.tasks = schema.tasks
        self.extents = extents
        self.scale = ce.exponents(schema.tasks, _greatest(schema.tasks, extents))
        self.whole: dict[Split, ce.Tally] = {}
        self.days: dict[Split, dict[int, ce.Tally]] = {}
        self.slices: dict[str, dict[Any, ce.Tally]] = {name: {} for name in slices}
        sizes = schema.table_rows()
        values = {feature.name: sizes[feature.table] for feature in schema.sparse}
        engine, files = parts.engine, parts.files
        self.whole |= {split: ce.Tally() for split in files}
        self.days |= {split: {} for split in files}
        days = [DAY] if DAY in pq.read_schema(files["train"][0]).names else []
        rows = together(parts.rows([*label_columns(schema.tasks), *days]))
        for block in ce.blocks(schema.tasks):
            all_cells = ce.fetch_cells(engine, rows, block, self.scale, [SPLIT, *days])
            for split, table in apart(all_cells, files).items():
                self.whole[split].add(block, ce.by_value(table, None).get(None, []))
                self._spread(split, block, table, days)
            for keys in packs([name for name, chosen in slices.items() if chosen is None], values):
                self._spread("train", block, ce.fetch_cells(engine, sample, block, self.scale, keys), keys)
            for name, chosen in slices.items():
                if chosen is not None:
                    selected = sample.filter(sample[name].isin(list(chosen)))
                    self._spread("train", block, ce.fetch_cells(engine, selected, block, self.scale, [name]), [name])

    def _spread(self, split: Split, block: Sequence[Task], table: pa.Table, keys: Sequence[str]) -> None:
        for key in keys:
            into = self.days[split] if key == DAY else self.slices[key]
            for value, cells in ce.by_value(table, key).items():
                into.setdefault(value, ce.Tally()).add(block, cells)

    def of_tasks(self) -> dict[str, dict[str, Any]]:
        """Return `tasks` of `stats.json`."""
        return {
            task.name: {split: self._task(task, split, tally) for split, tally in self.whole.items()}
            for task in self.tasks
        }

    def _task(self, task: Task, split: Split, tally: ce.Tally) -> dict[str, Any]:
        rows, positives = tally.outside[task.name]
        out = self._figures(task, tally)
        if task.kind == "regression":
            out |= {"std": tally.std(task, self.scale), "max": self.extents[split].labels[task.name].high}
        return out | {"outside": {"rows": rows, "positives": positives}}

    def _figures(self, task: Task, tally: ce.Tally) -> dict[str, Any]:
        out: dict[str, Any] = {"samples": tally.samples[task.name], "mean": tally.mean(task, self.scale)}
        if task.kind == "binary":
            out["positives"] = tally.positives[task.name]
        return out

    def of_correlation(self) -> dict[str, list[dict[str, Any]]]:
        """Return `correlation` of `stats.json`."""
        return {split: correlations(tally, self.tasks) for split, tally in self.whole.items()}

    def of_days(self) -> list[dict[str, Any]]:
        """Return `days` of `stats.json`, in order. The figures of a day are those of all splits together."""
        out = []
        for day in sorted({day for days in self.days.values() for day in days if day is not None}):
            tallies = {split: days[day] for split, days in self.days.items() if day in days}
            rows = {split: _rows(tally, self.tasks[0]) for split, tally in tallies.items()}
            figures = {task.name: self._sum(task, list(tallies.values())) for task in self.tasks}
            out.append({"day": (date(1970, 1, 1) + timedelta(days=day)).isoformat(), "rows": rows, "tasks": figures})
        return out

    def _sum(self, task: Task, tallies: Sequence[ce.Tally]) -> dict[str, Any]:
        both = ce.Tally(
            samples={task.name: sum(tally.samples[task.name] for tally in tallies)},
            sums={task.name: sum(tally.sums[task.name] for tally in tallies)},
            positives={task.name: sum(tally.positives[task.name] for tally in tallies)},
        )
        return self._figures(task, both)

    def of_slices(self) -> list[dict[str, Any]]:
        """Return `slices` of `stats.json`, with the values of most rows first."""
        out = []
        for column, tallies in self.slices.items():
            values = [
                {
                    "value": _plain(value),
                    "samples": _rows(tally, self.tasks[0]),
                    "means": {task.name: tally.mean(task, self.scale) for task in self.tasks},
                    "correlation": correlations(tally, self.tasks),
                }
                for value, tally in tallies.items()
            ]
            values.sort(key=lambda value: (-value["samples"], str(value["value"])))
            pairs = [(a.name, b.name) for i, a in enumerate(self.tasks) for b in self.tasks[i + 1 :]]
            shifts = [each for a, b in pairs if (each := shift(values, a, b)) is not None]
            out.append({"column": column, "values": values, "shift": shifts})
        return out


def _greatest(tasks: Sequence[Task], extents: Mapping[Split, Extent]) -> dict[str, float]:
    """Return the greatest absolute label of all splits by regression task; 0 if there is no label."""
    ranges = {t.name: [each.labels[t.name] for each in extents.values()] for t in tasks if t.kind == "regression"}
    return {
        name: max((abs(end) for each in some for end in (each.low, each.high) if end is not None), default=0.0)
        for name, some in ranges.items()
    }


def packs(names: Sequence[str], values: Mapping[str, int], most: int = COMBINATIONS) -> list[list[str]]:
    """Return the columns in packs. One query groups by all columns of a pack, and its result is summed for each column.

    Args:
        names: Names of the columns.
        values: Number of values that each can have.
        most: Greatest number of combinations of values in a pack. A column of more values has a pack of its own.
    """
    out: list[list[str]] = []
    for name in sorted(names, key=lambda name: values[name]):
        if out and math.prod(values[key] for key in out[-1]) * values[name] <= most:
            out[-1].append(name)
        else:
            out.append([name])
    return out


def label_columns(tasks: Sequence[Task]) -> list[str]:
    """Return the columns of the labels of tasks, and of their sample spaces."""
    columns = [column for task in tasks for column in (task.label, task.space) if column is not None]
    return list(dict.fromkeys(columns))


def default_slices(schema: DatasetSchema) -> list[str]:
    """Return the first single-valued features of small tables, which have few values."""
    rows = schema.table_rows()
    return [f.name for f in schema.sparse if not f.bag and rows[f.table] <= SLICE_ROWS][:SLICES]


def values_to_slice(
    engine: Engine,
    rows: ir.Table,
    schema: DatasetSchema,
    slices: Sequence[str],
    lookups: Mapping[str, Mapping[Split, Lookups]],
) -> dict[str, Sequence[Any] | None]:
    """Return the values of every sliced column that are counted: None for all, else the most frequent in train.

    Args:
        engine: Engine that counts.
        rows: Rows of train with the sliced columns.
        schema: Schema of the dataset.
        slices: Names of the sliced columns.
        lookups: Look-ups of the sparse columns, by column and split.
    """
    tables = schema.table_rows()
    small = {feature.name for feature in schema.sparse if tables[feature.table] <= SLICE_ROWS}
    out: dict[str, Sequence[Any] | None] = {}
    for name in slices:
        if name in small:
            out[name] = None
        elif name in lookups:
            out[name] = [row for row, _ in lookups[name]["train"].top(TOP_ROWS)]
        else:
            counted = rows.select(value=rows[name]).drop_null("value")
            counted = counted.group_by("value").aggregate(count=counted.count())
            top = counted.order_by(counted["count"].desc(), counted["value"].asc()).limit(TOP_ROWS)
            out[name] = engine.fetch(top)["value"].to_pylist()
    return out


def _rows(tally: ce.Tally, task: Task) -> int:
    return tally.samples[task.name] + tally.outside[task.name][0]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | str) else str(value)
