"""Results of a run as objects that a notebook shows: `Metrics`, `Gates`, and the training log as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ple_rec.api.html import block, line, shares_table, table
from ple_rec.config.base import SPLITS
from ple_rec.config.metrics import METRICS
from ple_rec.runs.metrics import group_by_kind, present_columns, split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import format_results
from ple_rec.storage import Location
from ple_rec.text.json_values import as_mapping, as_number

if TYPE_CHECKING:
    import pyarrow as pa

    from ple_rec.analysis.result import Gate

_MISSING = "-"


class Metrics(Mapping[str, Any]):
    """Metrics of a run, with the keys of `metrics.json` and `ple-rec evaluate --json`. A notebook shows a table.

    For example, `metrics["test"]["tasks"]["income"]["auc"]` is a number.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        """Return a part by its name: a split, `checkpoint`, `steps`, ..."""
        if key not in self._values:
            raise KeyError(f"{key}; there are {', '.join(self._values)}")
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the parts."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self._values)

    @property
    def splits(self) -> list[str]:
        """Splits that were evaluated."""
        return [split for split in SPLITS if split_tasks(self._values, split)]

    def table(self) -> pa.Table:
        """Return a row for each split and task, with every metric that is a number; an undefined metric is null."""
        rows = [
            {"split": split, "task": task} | {key: values[key] for key in values if _is_number(values[key])}
            for split in self.splits
            for task, values in split_tasks(self._values, split).items()
        ]
        return _to_table(rows, ("split", "task"))

    def __repr__(self) -> str:
        """Return the tables that `ple-rec evaluate` prints."""
        texts = [format_results(self._values, split) for split in self.splits]
        return "\n\n".join([f"checkpoint {self._values.get('checkpoint', _MISSING)}", *texts])

    def _repr_html_(self) -> str:
        return block(line("metrics", f"checkpoint {self._values.get('checkpoint', _MISSING)}"), *metrics_tables(self))


def metrics_tables(metrics: Metrics) -> list[str]:
    """Return a table of HTML for each split and kind of task."""
    tables = []
    for split in metrics.splits:
        tasks = split_tasks(metrics, split)
        for names in group_by_kind(tasks):
            rows = [tasks[name] for name in names]
            columns = present_columns(METRICS, rows)
            cells = [
                [name, *(_text(row.get(column.key), column.format_value) for column in columns)]
                for name, row in zip(names, rows, strict=True)
            ]
            tables.append(table([split, *(column.heading for column in columns)], cells))
    return tables


class Gates:
    """Mean weight of each expert in each gate of a model, over the samples of a split.

    Attributes:
        split: Split over which the weights are averaged.
    """

    split: str

    def __init__(self, split: str, gates: Sequence[Gate]) -> None:
        self.split, self._gates = split, list(gates)

    def table(self) -> pa.Table:
        """Return a row for each gate and expert.

        Its columns are `level` (from 1), `output` (owner of the gate: a task, "shared", or an expert of the next
        level), `expert` (`owner.index`), `shared` (True for an expert of no task), `mean` and `std` of the weight over
        the samples. The means of a gate sum to 1. A model without gates has no rows.
        """
        rows = [
            {"level": gate.level, "output": gate.output, "expert": each.name}
            | {"shared": each.shared, "mean": each.mean, "std": each.std}
            for gate in self._gates
            for each in gate.experts
        ]
        return _to_table(rows, ("level", "output", "expert", "shared", "mean", "std"))

    def __repr__(self) -> str:
        """Return a line for each gate."""
        lines = [
            f"level {gate.level}, {gate.output}: " + ", ".join(f"{each.name} {each.mean:.3f}" for each in gate.experts)
            for gate in self._gates
        ]
        return "\n".join([f"Gates on {self.split}, mean weights", *(lines or ["the model has no gates"])])

    def _repr_html_(self) -> str:
        tables = []
        for level in dict.fromkeys(gate.level for gate in self._gates):
            gates = [gate for gate in self._gates if gate.level == level]
            # Experts of tasks come before shared ones.
            ordered = sorted((each for gate in gates for each in gate.experts), key=lambda each: each.shared)
            experts = list(dict.fromkeys(each.name for each in ordered))
            rows = []
            for gate in gates:
                means = {each.name: each.mean for each in gate.experts}
                rows.append((gate.output, [means.get(name) for name in experts]))
            tables.append(shares_table(["gate of", *experts], rows, f"level {level}"))
        title = line("gates", f"mean weight of each expert on {self.split}")
        return block(title, *(tables or [line("the model has no gates")]))


def read_history(run_dir: Location) -> pa.Table:
    """Return `train.jsonl` as a table with a row for each record.

    It has a column for each number, text and boolean. Columns of a task are named `<task>.<metric>`. Lines that are
    damaged or incomplete are left out.
    """
    rows: list[dict[str, Any]] = []
    for record in filter(None, RunFiles(run_dir).records):
        row = {key: value for key, value in record.items() if isinstance(value, str | bool) or _is_number(value)}
        for task, values in as_mapping(record.get("tasks")).items():
            row |= {f"{task}.{key}": value for key, value in as_mapping(values).items() if _is_number(value)}
        rows.append(row)
    return _to_table(rows, ("split", "step"))


def _to_table(rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> pa.Table:
    """Return rows as a table, with null where a row lacks a name. The columns named in `first` come first."""
    import pyarrow as pa

    names = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _is_number(value: object) -> bool:
    """Return True for a number, and for None, which is an undefined one."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _text(value: object, format_value: Any) -> str:
    number = as_number(value)
    return _MISSING if number is None else str(format_value(number))
