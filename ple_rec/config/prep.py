"""`PrepConfig`: the configuration of a dataset's preparation, which `ple-rec prep` reads and saves as `prep.toml`.

The saved file has one table more, `[found]`: values that prep computed from the log, such as edges at quantiles.

An expression is SQL-like text over the columns of a row (`data_prep.expressions`). It names columns of the log and
`derived` columns by their name, and columns of a side table (joined to the log, `[sides.NAME]`) as `NAME.column`. If
there is a `[time]`, it may also use the local `time.day` (days since 1970-01-01), `time.hour` (0-23) and `time.weekday`
(0 is Monday). Features and `carry` may also name the columns of the tables that rates are counted in, as
`by_video_id.video_like_rate` (`prep_rates`).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Fraction, Name, PositiveInt
from ple_rec.config.prep_columns import MAX_ROWS, DenseSpec, SparseSpec, TableSpec, TaskSpec, ThresholdSpec, VectorSpec
from ple_rec.config.prep_histories import HistorySpec, history_problems
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
from ple_rec.config.prep_rates import CountedTable, RateSpec, counted_tables, rate_problems
from ple_rec.config.prep_splits import AppendConfig, ColumnSplit, DaySplit, HashSplit, HeldOutSplit, Share, SplitConfig
from ple_rec.config.schema import LOG_TIME, age_table, history_offsets


class ThresholdValues(Config):
    """Thresholds of a task, one for each bin into which `threshold.by` divides the training rows."""

    edges: tuple[float, ...] = Field((), description="ascending values of `by` at which the next bin begins")
    values: tuple[float, ...] = Field(description="threshold of each bin, one more than edges")
    missing: float | None = Field(None, description="threshold of rows without a value of `by`")

    @model_validator(mode="after")
    def _a_value_for_each_bin(self) -> ThresholdValues:
        if len(self.values) != len(self.edges) + 1:
            raise ValueError("give one value more than edges")
        return self


class FoundValues(Config):
    """Values that prep computed from the log. A day that `--append` adds gets those of its parent dataset."""

    day_1: str | None = Field(None, description="date of day 1")
    edges: dict[Name, tuple[float, ...]] = Field({}, description="edges of each sparse feature with `quantiles`")
    thresholds: dict[Name, ThresholdValues] = Field({}, description="thresholds of each task with `threshold`")
    types: dict[Name, dict[str, ColumnType]] = Field(
        {}, description="types of undeclared CSV columns, by table: `log` or the name of a side table"
    )
    rates_first_day: str | None = Field(
        None, description="date of the first day whose rows count in rates; of an appended day: this day"
    )
    rates_last_day: str | None = Field(None, description="date of the last day whose rows count in rates")
    histories_last_day: str | None = Field(None, description="date of the last day whose rows are events of histories")
    columns: dict[Name, dict[str, str]] = Field(
        {}, description="types of the columns that expressions read, by table, for requests in the raw form"
    )


def migrate_found_values(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a `prep.toml` with computed values in the table `[found]`, as the present format has them.

    Format 4 of `prep.toml` and earlier ones wrote edges at quantiles to `sparse[i].edges`, beside `edge_quantiles`, and
    types of CSV columns to `csv.inferred`. They wrote day 1 and thresholds to the keys that a user may set; these stay
    there. Any other content is returned unchanged.
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
    except (AttributeError, KeyError, TypeError):  # The document has problems, which the caller reports.
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
    "FoundValues",
    "HashSplit",
    "HeldOutSplit",
    "HistorySpec",
    "LogConfig",
    "OutputConfig",
    "PrepConfig",
    "RateSpec",
    "SamplingConfig",
    "SideConfig",
    "SparseSpec",
    "TableSpec",
    "TaskSpec",
    "ThresholdSpec",
    "ThresholdValues",
    "TimeConfig",
    "VectorSpec",
    "iso_date",
]

PREP_FILE = "prep.toml"


class SamplingConfig(Config):
    """Down-sampling of the training rows that do not fulfil `keep`.

    A share `rate` of them is kept, and their sample weight (1 without `weight`) is divided by `rate`.
    """

    keep: Expression = Field(description="condition of rows that are always kept, e.g. is_click = 1")
    rate: Share = Field(description="share of the other rows that is kept")
    hash: Annotated[tuple[Expression, ...], Field(min_length=1)] = Field(
        description="values whose hash selects rows, e.g. user, video and time; the same rows are kept in every run"
    )


class OutputConfig(Config):
    """Sizes of the Parquet files, `part-*.parquet`."""

    row_group_rows: PositiveInt = Field(
        65_536, description="most rows of a row group; row groups are divided among ranks"
    )
    part_rows: PositiveInt = Field(
        4_194_304, description="approximate rows of a Parquet file; more rows at a time need more memory"
    )


class PrepConfig(Config):
    """Preparation of a dataset directory from raw logs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the dataset")
    log: LogConfig
    sides: dict[Name, SideConfig] = Field({}, description="tables joined to the log, by name")
    time: TimeConfig | None = Field(None, description="time of a row; needed to split by day")
    derived: dict[Name, Expression] = Field(
        {}, description="columns for other expressions; each may use the derived columns before it"
    )
    split: SplitConfig
    append: AppendConfig = AppendConfig()
    checks: dict[Name, Expression] = Field(
        {}, description="conditions of every row; a row for which one is false is a bad row"
    )
    on_bad_row: Literal["refuse", "drop"] = Field(
        "refuse", description="refuse: end with an error; drop: leave the row out and count it"
    )
    max_bad_fraction: Fraction = Field(
        0.001, description="for drop: share of bad rows above which prep ends with an error all the same"
    )
    tables: dict[Name, TableSpec] = Field({}, description="embedding tables that differ from the defaults, by name")
    sparse: tuple[SparseSpec, ...] = ()
    dense: tuple[DenseSpec, ...] = ()
    vectors: tuple[VectorSpec, ...] = ()
    rates: tuple[RateSpec, ...] = Field((), exclude_if=lambda rates: not rates)
    histories: tuple[HistorySpec, ...] = Field((), exclude_if=lambda histories: not histories)
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    weight: Expression | None = Field(None, description="sample weight, at least 0")
    sampling: SamplingConfig | None = Field(None, description="down-sampling of the training rows")
    group: Expression | Annotated[tuple[Expression, ...], Field(min_length=1)] | None = Field(
        None,
        description="integer or text whose equal values mark the rows of one user or request, for GAUC and for the "
        'order of valid and test; or a list, such as ["user_id", "time.day"], for GAUC by user and by user and day',
    )
    carry: dict[Name, Expression] = Field(
        {}, description="further columns that no model reads, e.g. for metrics by slice"
    )
    slices: tuple[Name, ...] | None = Field(
        None,
        description="columns for which stats.html shows label correlations by value; default: the first eight "
        "sparse features that are no bags and whose table has at most 64 rows",
    )
    output: OutputConfig = OutputConfig()
    found: FoundValues = Field(
        FoundValues(), description="values that prep computes from the log and adds; leave it out"
    )

    @classmethod
    def migrate(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a `prep.toml` in the present format; earlier ones have no table `[found]`."""
        return migrate_found_values(raw)

    @property
    def day_1(self) -> str | None:
        """Date of day 1, set by the user or computed by prep; None before prep and for other splits than by day."""
        date: str | None = getattr(self.split, "day_1", None)
        return self.found.day_1 if date is None else date

    @property
    def counted_tables(self) -> dict[str, CountedTable]:
        """Tables in which the rates are counted, by name, such as `by_video_id`."""
        return counted_tables(self.rates)

    @property
    def value_tables(self) -> dict[str, str]:
        """Tables in which the values of an embedding table with `admit` or `expire` are counted by day.

        The key is the name of the embedding table, the value the name of the counted table. Names of the counted tables
        of rates begin with `by_`, so they differ from all of these.
        """
        return {name: f"values_of_{name}" for name, spec in self.tables.items() if spec.counted_days}

    @property
    def dense_features(self) -> tuple[DenseSpec, ...]:
        """Dense features: those of `dense`, then those of the rates."""
        tables = {i: table.name for table in self.counted_tables.values() for i in table.rates}
        rates = (feature for i, rate in enumerate(self.rates) for feature in rate.features(tables[i]))
        return (*self.dense, *rates)

    @property
    def group_entries(self) -> tuple[str, ...]:
        """Expressions of `group`, of which the first is that of the group itself; empty without groups."""
        if self.group is None:
            return ()
        return (self.group,) if isinstance(self.group, str) else self.group

    @property
    def has_subgroups(self) -> bool:
        """True if `group` divides the rows of a group further, by a second expression."""
        return len(self.group_entries) > 1

    @property
    def offset_seconds(self) -> int:
        """Local time minus UTC, in seconds; 0 without `[time]`."""
        return 0 if self.time is None else self.time.offset_seconds

    def with_found_values(self) -> PrepConfig:
        """Return a copy in which keys that the user left to prep have the values of `[found]`."""
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

    def with_found_values_of(self, dataset: PrepConfig) -> PrepConfig:
        """Return a copy in which keys that the user left to prep have the values of a dataset.

        The copy and the configuration of the dataset can then be compared key by key.

        Args:
            dataset: Configuration of the dataset, from its `prep.toml`.
        """
        thresholds = {
            task.name: ThresholdValues(edges=spec.edges or (), values=spec.values, missing=spec.missing)
            for task in dataset.with_found_values().tasks
            if (spec := task.threshold) is not None and spec.values is not None
        }
        found_values = dataset.found.model_copy(update={"day_1": dataset.day_1, "thresholds": thresholds})
        return self.model_copy(update={"found": found_values}).with_found_values()

    @model_validator(mode="after")
    def _fits(self) -> PrepConfig:
        problems = []
        tables_in_use = {feature.table_name for feature in self.sparse}
        buckets = {feature.name for feature in self.sparse if feature.bucketised}
        for table in self.tables:
            if table not in tables_in_use:
                problems.append(
                    f"tables.{table}: no sparse feature reads it; drop it, or name it in a feature's `table`"
                )
            elif table in buckets:
                problems.append(f"tables.{table}: a bucketised feature has no vocabulary; drop it")
            elif table in self.value_tables and not isinstance(self.split, DaySplit | HeldOutSplit):
                problems.append(
                    f"tables.{table}: admit and expire decide on days that --append adds, which needs a split by day; "
                    'set split.by = "day", or drop them'
                )
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
        problems += rate_problems(self.rates, self.sides, has_time=self.time is not None)
        time_unit = None if self.time is None else self.time.unit
        problems += history_problems(self.histories, self.sparse, time_unit, [*self.sides, *self.counted_tables])
        features = [feature.name for feature in (*self.sparse, *self.dense_features, *self.vectors)]
        names = [*features, *self.carry, *dict.fromkeys(history.name for history in self.histories)]
        problems += [
            f"{name!r} names two columns of the dataset" for name in sorted({n for n in names if names.count(n) > 1})
        ]
        tasks = [task.name for task in self.tasks]
        problems += [f"task {name!r} is listed twice" for name in sorted({n for n in tasks if tasks.count(n) > 1})]
        if isinstance(self.split, DaySplit | HeldOutSplit) and self.time is None:
            problems.append(f'split.by = "{self.split.by}" needs [time]')
        has_valid_share = isinstance(self.split, DaySplit) and self.split.valid_share is not None
        if has_valid_share and self.group is None and getattr(self.split, "valid_hash", None) is None:
            problems.append("split.valid_share needs split.valid_hash or group, to keep rows together")
        if isinstance(self.split, HeldOutSplit) and self.split.hash is None and self.group is None:
            problems.append('split.by = "held_out" needs split.hash or group, to keep rows together')
        problems += [
            f"group[{i}]: {text!r} is an entry before it; name each once"
            for i, text in enumerate(self.group_entries)
            if text in self.group_entries[:i]
        ]
        if not features:
            problems.append("no feature (sparse, dense or vectors); a model needs at least one")
        for word, meaning in (("time", "the time of the row"), ("log", "the log itself")):
            if word in self.sides:
                problems.append(f"sides.{word}: in expressions, `{word}` means {meaning}; use another name")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _name_problems(self) -> list[str]:
        """Return a problem for each name that prep gives to a column itself, that has `__`, or differs only in case."""
        features = (*self.sparse, *self.dense_features, *self.vectors)
        columns = {f"feature {feature.name!r}": feature.name for feature in features}
        columns |= {f"carry.{name}": name for name in self.carry}
        columns |= {f"history {history.name!r}": history.name for history in self.histories}
        reserved = {f"{f.name}_weights": f"the weights of {f.name!r}" for f in self.sparse if f.weights is not None}
        reserved |= {f"label_{task.name}": f"the label of task {task.name!r}" for task in self.tasks}
        spaces = [task for task in self.tasks if task.space is not None]
        reserved |= {f"space_{task.name}": f"the space of task {task.name!r}" for task in spaces}
        reserved |= {"group": "the group"} if self.group is not None else {}
        reserved |= {"subgroup": "the subgroup"} if self.has_subgroups else {}
        reserved |= {"log_day": "the day of the row"} if self.time is not None else {}
        reserved |= {LOG_TIME: "the time of the row"} if self.histories else {}
        for history in self.histories:
            begin, end = history_offsets(history.name)
            reserved |= {begin: f"an offset of {history.name!r}", end: f"an offset of {history.name!r}"}
            reserved |= {age_table(history.name): f"the ages of {history.name!r}"}
        has_weight = self.weight is not None or self.sampling is not None
        reserved |= {"sample_weight": "the sample weight"} if has_weight else {}
        by_lower = {name.lower(): meaning for name, meaning in reserved.items()}
        problems = []
        for place, name in columns.items():
            if name.lower() in by_lower:
                problems.append(f"{place}: the column is {by_lower[name.lower()]}; use another name")
            if "__" in name:
                problems.append(f"{place}: names with two underscores in a row are reserved; use another name")
        problems += [
            f"tables: {age_table(history.name)!r} has the ages of history {history.name!r}; use another name"
            for history in self.histories
            if age_table(history.name) in {feature.table_name for feature in self.sparse}
        ]
        tables = dict.fromkeys([*(feature.table_name for feature in self.sparse), *self.tables])
        for names in (list(columns.values()), list(tables), list(self.sides), [task.name for task in self.tasks]):
            first_names: dict[str, str] = {}
            for name in names:
                other = first_names.setdefault(name.lower(), name)
                if other != name:
                    problems.append(f"{other!r} and {name!r} differ only in case, which engines do not tell apart")
        return problems
