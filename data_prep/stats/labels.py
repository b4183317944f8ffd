"""Statistics of labels: by split, by day, and by the values of columns that slice the train split."""

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
from data_prep.stats.together import SPLIT, Parts, split_result, union_splits
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, Task

DAY = "log_day"  # Column with the day of a row: days since 1970; parts without times lack it.
# Most columns that slice the rows by default, and most rows of the embedding table of such a column.
MAX_DEFAULT_SLICES, MAX_SLICE_ROWS = 8, 64
MAX_COMBINATIONS = 2**13  # Most combinations of values of the columns by which one query groups.


class LabelStats:
    """Statistics of the labels of a dataset, which are computed when the object is made.

    Args:
        parts: Parts of the dataset.
        schema: Schema of the dataset.
        extents: Extent of each split.
        slices: Values for which labels are counted, by column that slices the rows; None for all values of the column.
        sample: Rows of train that are sliced, with the columns of the slices and of the labels.
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
        # Exponents k of the regression tasks, which `cells.py` explains.
        self.scale = ce.scale_exponents(schema.tasks, _max_absolute_labels(schema.tasks, extents))
        self.tallies_by_split: dict[Split, ce.Tally] = {}
        self.tallies_by_day: dict[Split, dict[int, ce.Tally]] = {}
        self.tallies_by_value: dict[str, dict[Any, ce.Tally]] = {name: {} for name in slices}
        sizes = schema.table_rows()
        cardinalities = {feature.name: sizes[feature.table] for feature in schema.sparse}
        engine, files = parts.engine, parts.files
        self.tallies_by_split |= {split: ce.Tally() for split in files}
        self.tallies_by_day |= {split: {} for split in files}
        days = [DAY] if DAY in pq.read_schema(files["train"][0]).names else []
        rows = union_splits(parts.rows([*label_columns(schema.tasks), *days]))
        for block in ce.task_blocks(schema.tasks):
            all_cells = ce.fetch_cells(engine, rows, block, self.scale, [SPLIT, *days])
            for split, table in split_result(all_cells, files).items():
                self.tallies_by_split[split].add(block, ce.sum_by_value(table, None).get(None, []))
                self._add_by_value(split, block, table, days)
            for keys in group_columns([name for name, chosen in slices.items() if chosen is None], cardinalities):
                self._add_by_value("train", block, ce.fetch_cells(engine, sample, block, self.scale, keys), keys)
            for name, chosen in slices.items():
                if chosen is not None:
                    selected = sample.filter(sample[name].isin(list(chosen)))
                    self._add_by_value(
                        "train", block, ce.fetch_cells(engine, selected, block, self.scale, [name]), [name]
                    )

    def _add_by_value(self, split: Split, block: Sequence[Task], table: pa.Table, keys: Sequence[str]) -> None:
        for key in keys:
            tallies = self.tallies_by_day[split] if key == DAY else self.tallies_by_value[key]
            for value, cells in ce.sum_by_value(table, key).items():
                tallies.setdefault(value, ce.Tally()).add(block, cells)

    def task_stats(self) -> dict[str, dict[str, Any]]:
        """Return the entry `tasks` of `stats.json`."""
        return {
            task.name: {split: self._task(task, split, tally) for split, tally in self.tallies_by_split.items()}
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

    def correlation_stats(self) -> dict[str, list[dict[str, Any]]]:
        """Return the entry `correlation` of `stats.json`."""
        return {split: correlations(tally, self.tasks) for split, tally in self.tallies_by_split.items()}

    def day_stats(self) -> list[dict[str, Any]]:
        """Return the entry `days` of `stats.json`, in order; the figures of a day are those of all splits together."""
        out = []
        for day in sorted({day for days in self.tallies_by_day.values() for day in days if day is not None}):
            tallies = {split: days[day] for split, days in self.tallies_by_day.items() if day in days}
            rows = {split: _row_count(tally, self.tasks[0]) for split, tally in tallies.items()}
            figures = {task.name: self._merge_splits(task, list(tallies.values())) for task in self.tasks}
            out.append({"day": (date(1970, 1, 1) + timedelta(days=day)).isoformat(), "rows": rows, "tasks": figures})
        return out

    def _merge_splits(self, task: Task, tallies: Sequence[ce.Tally]) -> dict[str, Any]:
        merged = ce.Tally(
            samples={task.name: sum(tally.samples[task.name] for tally in tallies)},
            sums={task.name: sum(tally.sums[task.name] for tally in tallies)},
            positives={task.name: sum(tally.positives[task.name] for tally in tallies)},
        )
        return self._figures(task, merged)

    def slice_stats(self) -> list[dict[str, Any]]:
        """Return the entry `slices` of `stats.json`; the values with the most rows come first."""
        out = []
        for column, tallies in self.tallies_by_value.items():
            values = [
                {
                    "value": _json_value(value),
                    "samples": _row_count(tally, self.tasks[0]),
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


def _max_absolute_labels(tasks: Sequence[Task], extents: Mapping[Split, Extent]) -> dict[str, float]:
    """Return the greatest absolute label over all splits, by regression task; 0 if there are no labels."""
    ranges = {t.name: [each.labels[t.name] for each in extents.values()] for t in tasks if t.kind == "regression"}
    return {
        name: max((abs(end) for each in some for end in (each.low, each.high) if end is not None), default=0.0)
        for name, some in ranges.items()
    }


def group_columns(
    names: Sequence[str], cardinalities: Mapping[str, int], max_combinations: int = MAX_COMBINATIONS
) -> list[list[str]]:
    """Divide columns into groups, such that one query can group by all columns of a group.

    The result of the query is then summed for each column.

    Args:
        names: Names of the columns.
        cardinalities: Number of possible values by column.
        max_combinations: Largest number of combinations of values in a group; a column of more values is alone.
    """
    out: list[list[str]] = []
    for name in sorted(names, key=lambda name: cardinalities[name]):
        if out and math.prod(cardinalities[key] for key in out[-1]) * cardinalities[name] <= max_combinations:
            out[-1].append(name)
        else:
            out.append([name])
    return out


def label_columns(tasks: Sequence[Task]) -> list[str]:
    """Return the names of the columns of labels and of sample spaces."""
    columns = [column for task in tasks for column in (task.label, task.space) if column is not None]
    return list(dict.fromkeys(columns))


def default_slices(schema: DatasetSchema) -> list[str]:
    """Return the columns that slice the rows by default: the first eight single-valued features with small tables."""
    rows = schema.table_rows()
    return [f.name for f in schema.sparse if not f.bag and rows[f.table] <= MAX_SLICE_ROWS][:MAX_DEFAULT_SLICES]


def values_to_slice(
    engine: Engine,
    rows: ir.Table,
    schema: DatasetSchema,
    slices: Sequence[str],
    lookups: Mapping[str, Mapping[Split, Lookups]],
) -> dict[str, Sequence[Any] | None]:
    """Return the values that are counted, by column that slices the rows.

    They are None, for all values, if the column has a table of at most `MAX_SLICE_ROWS` rows, and otherwise the
    `TOP_ROWS` most frequent values in train.

    Args:
        engine: Engine that counts.
        rows: Rows of train with these columns.
        schema: Schema of the dataset.
        slices: Names of the columns.
        lookups: Look-ups of the sparse columns, by column and split.
    """
    tables = schema.table_rows()
    small = {feature.name for feature in schema.sparse if tables[feature.table] <= MAX_SLICE_ROWS}
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


def _row_count(tally: ce.Tally, task: Task) -> int:
    """Return the number of rows of a tally, which is the same for any task: rows in its sample space, and outside."""
    return tally.samples[task.name] + tally.outside[task.name][0]


def _json_value(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | str) else str(value)
