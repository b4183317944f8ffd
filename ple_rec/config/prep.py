"""`PrepConfig`: how raw logs become a dataset directory; the TOML that `ple-rec prep` reads, and `[found]`.

An expression is SQL-like text over the columns of a row (`data_prep.expressions`): those of the log by their name,
those of a side table as `side.column`, `derived` ones by their name, and of the time `time.day` (days since
1970-01-01), `time.hour` (0-23) and `time.weekday` (0 is Monday), all local.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Fraction, Name, PositiveInt
from ple_rec.config.prep_columns import MAX_ROWS, DenseSpec, SparseSpec, TableSpec, TaskSpec, ThresholdSpec
from ple_rec.config.prep_inputs import (
    ColumnType,
    CsvConfig,
    Expression,
    FilesConfig,
    LogConfig,
    SideConfig,
    TimeConfig,
    iso_date,
)
from ple_rec.config.prep_splits import AppendConfig, ColumnSplit, DaySplit, HashSplit, HeldOutSplit, Share, SplitConfig


class ThresholdValues(Config):
    """Thresholds of a task, one for each part into which `threshold.by` cuts the training rows."""

    edges: tuple[float, ...] = Field((), description="ascending values of `by` at which the next part begins")
    values: tuple[float, ...] = Field(description="threshold of each part, one more than edges")
    missing: float | None = Field(None, description="threshold of rows without a value of `by`")

    @model_validator(mode="after")
    def _a_value_for_each_part(self) -> ThresholdValues:
        if len(self.values) != len(self.edges) + 1:
            raise ValueError("give one value more than edges")
        return self


class Found(Config):
    """Values that prep took from the log. `--append` keeps those of the parent; another preparation takes its own."""

    day_1: str | None = Field(None, description="date of day 1")
    edges: dict[Name, tuple[float, ...]] = Field({}, description="edges of each sparse feature with `quantiles`")
    thresholds: dict[Name, ThresholdValues] = Field({}, description="thresholds of each task with `threshold`")
    types: dict[Name, dict[str, ColumnType]] = Field(
        {}, description="types of undeclared CSV columns, by table: `log` or the name of a side table"
    )


def with_found_table(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a preparation as this version writes it.

    Format 4 and earlier wrote the edges at quantiles into `sparse[i].edges`, beside `edge_quantiles`, and the types of
    CSV columns into `csv.inferred`. They also wrote day 1 and thresholds to places where a user may have given them;
    these stay there.
    """
    document = deepcopy(raw)
    edges, types = {}, {}
    try:
        for name, table in {"log": document["log"], **document.get("sides", {})}.items():
            if "inferred" in table.get("csv", {}):
                types[name] = table["csv"].pop("inferred")
        for feature in document.get("sparse", ()):
            if "edge_quantiles" in feature:
                edges[feature["name"]] = feature.pop("edges")
                feature["quantiles"] = feature.pop("edge_quantiles")
    except (AttributeError, KeyError, TypeError):  # the caller checks the document and names what is wrong with it
        return raw
    return document | {"found": {"edges": edges, "types": types}} if edges or types else raw


__all__ = [
    "MAX_ROWS",
    "PREP_FILE",
    "AppendConfig",
    "ColumnSplit",
    "ColumnType",
    "CsvConfig",
    "DaySplit",
    "DenseSpec",
    "FilesConfig",
    "Found",
    "HashSplit",
    "HeldOutSplit",
    "LogConfig",
    "OutputConfig",
    "PrepConfig",
    "SamplingConfig",
    "SideConfig",
    "SparseSpec",
    "TableSpec",
    "TaskSpec",
    "ThresholdSpec",
    "ThresholdValues",
    "TimeConfig",
    "iso_date",
]

PREP_FILE = "prep.toml"


class SamplingConfig(Config):
    """Down-sampling of the training rows. A row that stays by chance gets the weight 1 / rate, the others 1."""

    keep: Expression = Field(description="rows that always stay, e.g. is_click = 1")
    rate: Share = Field(description="share of the others that stays")
    hash: Annotated[tuple[Expression, ...], Field(min_length=1)] = Field(
        description="what decides on a row, e.g. user, video and time: the same rows stay in every run"
    )


class OutputConfig(Config):
    """Shape of the Parquet parts."""

    row_group_rows: PositiveInt = Field(65_536, description="rows of a row group, the unit that ranks share, at most")
    part_rows: PositiveInt = Field(4_194_304, description="rows of a part, the unit of work and of memory, about")


class PrepConfig(Config):
    """Raw logs to a dataset directory."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the dataset")
    log: LogConfig
    sides: dict[Name, SideConfig] = Field({}, description="tables joined to the log, by name")
    time: TimeConfig | None = Field(None, description="needed to split by day")
    derived: dict[Name, Expression] = Field({}, description="columns to be used below, each may use those above it")
    split: SplitConfig
    append: AppendConfig = AppendConfig()
    checks: dict[Name, Expression] = Field({}, description="what must hold in every row; false is a bad row")
    on_bad_row: Literal["refuse", "drop"] = Field("refuse", description="end, or leave the row out and count it")
    max_bad_fraction: Fraction = Field(0.001, description="drop: end all the same where more than this is bad")
    tables: dict[Name, TableSpec] = Field({}, description="embedding tables that differ from the defaults, by name")
    sparse: tuple[SparseSpec, ...] = ()
    dense: tuple[DenseSpec, ...] = ()
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    weight: Expression | None = Field(None, description="sample weight, at least 0")
    sampling: SamplingConfig | None = Field(None, description="leave some training rows out, and weigh the others up")
    group: Expression | None = Field(
        None, description="integer or text; rows of one user or request: GAUC, and the order of valid and test"
    )
    carry: dict[Name, Expression] = Field(
        {}, description="further columns that no model reads, e.g. to slice metrics by"
    )
    slices: tuple[Name, ...] | None = Field(
        None,
        description="columns by whose values stats.html shows how label correlations shift; default: the first eight "
        "single-valued features of at most 64 values",
    )
    output: OutputConfig = OutputConfig()
    found: Found = Field(Found(), description="written by prep, which takes these values from the log: leave it out")

    @classmethod
    def migrate(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the document of a preparation with the table `[found]`, which earlier versions did not write."""
        return with_found_table(raw)

    @property
    def day_1(self) -> str | None:
        """Date of day 1, as it is given or as prep found it; None of a split that counts no days."""
        given: str | None = getattr(self.split, "day_1", None)
        return self.found.day_1 if given is None else given

    def filled(self) -> PrepConfig:
        """Return the configuration with the values of `[found]` in the places that it leaves to prep."""
        sparse, tasks = [], []
        for feature in self.sparse:
            if feature.quantiles is not None and feature.name in self.found.edges:
                feature = feature.model_copy(update={"edges": self.found.edges[feature.name]})
            sparse.append(feature)
        for task in self.tasks:
            values = self.found.thresholds.get(task.name)
            if task.threshold is not None and task.threshold.values is None and values is not None:
                threshold = task.threshold.model_copy(update=dict(values))
                task = task.model_copy(update={"threshold": threshold})
            tasks.append(task)
        split = self.split
        if isinstance(split, DaySplit | HeldOutSplit):
            split = split.model_copy(update={"day_1": self.day_1})
        return self.model_copy(update={"sparse": tuple(sparse), "tasks": tuple(tasks), "split": split})

    def filled_as(self, dataset: PrepConfig) -> PrepConfig:
        """Return the configuration with the values of a dataset in the places that it leaves to prep, for comparison.

        Args:
            dataset: Configuration of the dataset, from its `prep.toml`.
        """
        thresholds = {
            task.name: ThresholdValues(edges=spec.edges or (), values=spec.values, missing=spec.missing)
            for task in dataset.filled().tasks
            if (spec := task.threshold) is not None and spec.values is not None
        }
        found = dataset.found.model_copy(update={"day_1": dataset.day_1, "thresholds": thresholds})
        return self.model_copy(update={"found": found}).filled()

    @model_validator(mode="after")
    def _fits(self) -> PrepConfig:
        problems = []
        tables = {feature.table_name for feature in self.sparse}
        buckets = {feature.name for feature in self.sparse if feature.bucketised}
        for table in self.tables:
            if table not in tables:
                problems.append(
                    f"tables.{table}: no sparse feature reads it; drop it, or name it in a feature's `table`"
                )
            elif table in buckets:
                problems.append(f"tables.{table}: a bucketised feature has no vocabulary; drop it")
        for feature in self.sparse:
            if feature.table in buckets:
                problems.append(f"sparse {feature.name!r}: table {feature.table!r} belongs to a bucketised feature")
        problems += self._name_problems()
        sliceable = {*(feature.name for feature in self.sparse if not feature.bag), *self.carry}
        problems += [
            f"slices: {name!r} is neither a single-valued sparse feature nor carried"
            for name in self.slices or ()
            if name not in sliceable
        ]
        names = [*(f.name for f in self.sparse), *(f.name for f in self.dense), *self.carry]
        problems += [
            f"{name!r} names two columns of the dataset" for name in sorted({n for n in names if names.count(n) > 1})
        ]
        tasks = [task.name for task in self.tasks]
        problems += [f"task {name!r} stands twice" for name in sorted({n for n in tasks if tasks.count(n) > 1})]
        if isinstance(self.split, DaySplit | HeldOutSplit) and self.time is None:
            problems.append(f'split.by = "{self.split.by}" needs [time]')
        shared = isinstance(self.split, DaySplit) and self.split.valid_share is not None
        if shared and self.group is None and getattr(self.split, "valid_hash", None) is None:
            problems.append("split.valid_share needs split.valid_hash or group, to keep rows together")
        if isinstance(self.split, HeldOutSplit) and self.split.hash is None and self.group is None:
            problems.append('split.by = "held_out" needs split.hash or group, to keep rows together')
        if not self.sparse and not self.dense:
            problems.append("no sparse and no dense feature; a model needs at least one")
        for word, meaning in (("time", "the time of the row"), ("log", "the log itself")):
            if word in self.sides:
                problems.append(f"sides.{word}: the word `{word}` means {meaning}; use another name")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _name_problems(self) -> list[str]:
        """Names of columns that would stand twice in a part, or that the pipeline uses itself."""
        given = {f"feature {feature.name!r}": feature.name for feature in self.sparse}
        given |= {f"feature {number.name!r}": number.name for number in self.dense}
        given |= {f"carry.{name}": name for name in self.carry}
        made = {f"{f.name}_weights": f"the weights of {f.name!r}" for f in self.sparse if f.weights is not None}
        made |= {f"label_{task.name}": f"the label of task {task.name!r}" for task in self.tasks}
        spaces = [task for task in self.tasks if task.space is not None]
        made |= {f"space_{task.name}": f"the space of task {task.name!r}" for task in spaces}
        made |= {"group": "the group"} if self.group is not None else {}
        made |= {"log_day": "the day of the row"} if self.time is not None else {}
        weighed = self.weight is not None or self.sampling is not None
        made |= {"sample_weight": "the sample weight"} if weighed else {}
        taken = {name.lower(): what for name, what in made.items()}
        problems = []
        for who, name in given.items():
            if name.lower() in taken:
                problems.append(f"{who}: the column is {taken[name.lower()]}; use another name")
            if "__" in name:
                problems.append(f"{who}: two underscores together are for prep itself; use another name")
        tables = dict.fromkeys([*(feature.table_name for feature in self.sparse), *self.tables])
        for names in (list(given.values()), list(tables), list(self.sides), [task.name for task in self.tasks]):
            letters: dict[str, str] = {}
            for name in names:
                other = letters.setdefault(name.lower(), name)
                if other != name:
                    problems.append(f"{other!r} and {name!r} differ in case alone, which engines do not tell apart")
        return problems
