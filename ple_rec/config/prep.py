"""`PrepConfig`: how raw logs become a dataset directory. The TOML that `ple-rec prep` reads.

An expression is SQL-like text over the columns of a row (`data_prep.expressions`): those of the log by their name,
those of a side table as `side.column`, `derived` ones by their name, and of the time `time.day` (days since
1970-01-01), `time.hour` (0-23) and `time.weekday` (0 is Monday), all local.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ple_rec.config.base import Config, Fraction, Name, NonNegativeInt, PositiveInt, TaskKind
from ple_rec.config.schema import Normaliser

PREP_FILE = "prep.toml"
MAX_ROWS = 2**31 - 1  # of an embedding table, whose ids are int32

Expression = Annotated[str, Field(min_length=1)]
ColumnType = Literal["int32", "int64", "float", "double", "string", "bool", "date"]
Share = Annotated[float, Field(gt=0, lt=1)]
Day = PositiveInt | str

_FIRST_DAY = "1970-01-02"
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


class CsvConfig(Config):
    """How CSV files read; `.gz` ones are unpacked on the way."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(",", description="one character")
    header: bool = Field(True, description="whether the first line of every file names the columns")
    columns: tuple[str, ...] = Field((), description="names of the columns, where no line names them")
    nulls: tuple[str, ...] = Field(("",), description="cells that stand for a missing value")
    types: dict[str, ColumnType] = Field(
        {}, description="type of a column by name; the others are what the first 16 MiB of the first file look like"
    )

    @model_validator(mode="after")
    def _names_once(self) -> CsvConfig:
        if self.header == bool(self.columns):
            raise ValueError("give `columns` where header = false, and only there")
        return self


class FilesConfig(Config):
    """Files of one table, of one format and one schema."""

    files: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="paths, folders or globs below --from, or s3://bucket/key; folders named key=value become columns"
    )
    format: Literal["parquet", "csv"] | None = Field(None, description="default: what the names end in")
    csv: CsvConfig = CsvConfig()


class LogConfig(FilesConfig):
    """The log: one row for each impression."""

    where: Expression | None = Field(None, description="rows to take; default: all")


class SideConfig(FilesConfig):
    """A table that is joined to the log, such as the features of users. Its columns are read as `side.column`."""

    on: Annotated[dict[str, Expression], Field(min_length=1)] = Field(
        description="key columns of the side table, each with the expression of the log that it must equal"
    )
    day: Expression | None = Field(
        None,
        description="column of the side table that dates its rows (a date, text YYYY-MM-DD, or YYYYMMDD); then a log "
        "row meets the latest row of its key that is not after the log row's day",
    )


class TimeConfig(Config):
    """When a row happened."""

    value: Expression = Field(description="column or expression")
    unit: Literal["s", "ms", "us", "ns", "timestamp", "date"] = Field(
        description="since 1970-01-01 UTC; timestamp: a Parquet timestamp; date: a date, its text, or YYYYMMDD"
    )
    utc_offset: str = Field("+00:00", description="local time, which cuts the days, minus UTC, e.g. +08:00")
    earliest: str = Field("2000-01-01", description="no row is before this day, or the unit is taken to be wrong")
    latest: str = Field("2099-12-31", description="no row is after this day")

    @field_validator("utc_offset")
    @classmethod
    def _offset(cls, text: str) -> str:
        found = _OFFSET.fullmatch(text)
        if found is None or int(found[2]) > 14 or int(found[3]) > 59:
            raise ValueError(f"got {text!r}; an offset reads +HH:MM or -HH:MM, at most 14 hours")
        return text

    @field_validator("earliest", "latest")
    @classmethod
    def _date(cls, text: str) -> str:
        if iso_date(text) < _FIRST_DAY:
            raise ValueError(f"got {text!r}; days are counted from {_FIRST_DAY}")
        return iso_date(text)

    @model_validator(mode="after")
    def _a_date_has_no_offset(self) -> TimeConfig:
        if self.unit == "date" and self.offset_seconds:
            raise ValueError('utc_offset with unit = "date"; a date is local already, so drop it')
        return self

    @property
    def offset_seconds(self) -> int:
        """Local time minus UTC, in seconds."""
        found = _OFFSET.fullmatch(self.utc_offset)
        assert found is not None
        seconds = int(found[2]) * 3600 + int(found[3]) * 60
        return -seconds if found[1] == "-" else seconds


def iso_date(text: str) -> str:
    """A day as YYYY-MM-DD.

    Raises:
        ValueError: `text` is no such day.
    """
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"got {text!r}; a day reads YYYY-MM-DD") from None


class DaySplit(Config):
    """Splits by the day of a row; needs `[time]`. Vocabularies and statistics see the training days only."""

    by: Literal["day"]
    day_1: str | None = Field(None, description="date of day 1; default: the earliest day of the log")
    train: tuple[Day, Day] = Field(description="first and last day, numbers from 1 or dates")
    valid: tuple[Day, Day] | None = Field(None, description="the same; or give `valid_share`")
    valid_share: Share | None = Field(None, description="this share of the test days goes to valid instead")
    valid_hash: Expression | None = Field(
        None, description="what decides on it: rows of equal value stay together; default: `group`"
    )
    test: tuple[Day, Day] = Field(description="first and last day")
    empty_days: tuple[Day, ...] = Field((), description="days of these ranges that may be without a row")

    @field_validator("day_1")
    @classmethod
    def _day_1_is_a_date(cls, text: str | None) -> str | None:
        return None if text is None else iso_date(text)

    @field_validator("train", "valid", "test", "empty_days")
    @classmethod
    def _days_are_days(cls, days: tuple[Day, ...] | None) -> tuple[Day, ...] | None:
        for day in days or ():
            if isinstance(day, str):
                iso_date(day)
        return days

    @model_validator(mode="after")
    def _one_valid(self) -> DaySplit:
        if (self.valid is None) == (self.valid_share is None):
            raise ValueError("give exactly one of `valid` and `valid_share`")
        if self.valid_hash is not None and self.valid_share is None:
            raise ValueError("`valid_hash` belongs to `valid_share`")
        return self

    def named_days(self) -> tuple[Day, ...]:
        """Every day that is named."""
        return (*self.train, *(self.valid or ()), *self.test, *self.empty_days)


class HashSplit(Config):
    """Splits by a hash of a value, so that all rows of a user, say, lie in one split. It mixes past and future."""

    by: Literal["hash"]
    value: Expression = Field(description="what is hashed: rows of equal value stay together")
    valid: Share = Field(description="share of the values")
    test: Share = Field(description="share of the values")
    seed: NonNegativeInt = Field(0, description="another one gives another split")

    @model_validator(mode="after")
    def _something_to_train(self) -> HashSplit:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid} and test = {self.test} leave nothing to train")
        return self


class ColumnSplit(Config):
    """Splits that the log has already."""

    by: Literal["column"]
    value: Expression = Field(description="gives the text train, valid or test; rows of any other value are bad rows")


class HeldOutSplit(Config):
    """Some days, of which valid and test hold out a share each; what `--append` makes of a day split."""

    by: Literal["held_out"]
    day_1: str | None = Field(None, description="date of day 1; default: the earliest day of the log")
    days: tuple[Day, Day] = Field(description="first and last day, numbers from 1 or dates")
    valid: Share = Field(0.05, description="share of the values of `hash`")
    test: Share = Field(0.05, description="share of the values of `hash`")
    hash: Expression | None = Field(
        None, description="what decides: rows of equal value stay together; default: `group`"
    )

    @field_validator("day_1")
    @classmethod
    def _day_1_is_a_date(cls, text: str | None) -> str | None:
        return None if text is None else iso_date(text)

    @field_validator("days")
    @classmethod
    def _days_are_days(cls, days: tuple[Day, Day]) -> tuple[Day, Day]:
        for day in days:
            if isinstance(day, str):
                iso_date(day)
        return days

    @model_validator(mode="after")
    def _something_to_train(self) -> HeldOutSplit:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid} and test = {self.test} leave nothing to train")
        return self

    def named_days(self) -> tuple[Day, ...]:
        """Every day that is named."""
        return self.days


class AppendConfig(Config):
    """What `--append` holds out of the day that it adds."""

    valid: Share = Field(0.05, description="share of the groups")
    test: Share = Field(0.05, description="share of the groups")

    @model_validator(mode="after")
    def _something_to_train(self) -> AppendConfig:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid = {self.valid} and test = {self.test} leave nothing to train")
        return self


SplitConfig = Annotated[DaySplit | HeldOutSplit | HashSplit | ColumnSplit, Field(discriminator="by")]


class TableSpec(Config):
    """An embedding table and the vocabulary that fills it."""

    min_count: PositiveInt = Field(1, description="values seen fewer times in train share row 0 with the unseen")
    capacity: Annotated[int, Field(gt=1, le=MAX_ROWS)] | None = Field(
        None,
        description="rows to allocate, with headroom for --append; default: as many as are used, so that --append "
        "gives no row to a new value, for a checkpoint of the parent must fit",
    )
    overflow: Literal["unknown", "hash"] = Field(
        "unknown", description="a value without a row: row 0, or one of the last `hash_rows` rows, by its hash"
    )
    hash_rows: NonNegativeInt = Field(0, description="rows kept for that at the end of the table; part of capacity")

    @model_validator(mode="after")
    def _hash_needs_rows(self) -> TableSpec:
        if (self.overflow == "hash") != bool(self.hash_rows):
            raise ValueError('overflow = "hash" needs hash_rows of 1 or more, and hash_rows need overflow = "hash"')
        if self.capacity is not None and self.hash_rows >= self.capacity:
            raise ValueError(f"hash_rows = {self.hash_rows} leave no row of capacity = {self.capacity}")
        return self


class SparseSpec(Config):
    """A feature whose values are rows of an embedding table."""

    name: Name
    value: Expression | None = Field(None, description="column or expression, of text or integers; default: its name")
    table: Name | None = Field(None, description="features may share a table; default: its own, of its name")
    bag: bool = Field(False, description="whether `value` is a list")
    max_length: PositiveInt | None = Field(None, description="of a bag; default: all of it")
    keep: Literal["first", "last"] = Field("last", description="which end of a longer bag is kept")
    weights: Expression | None = Field(None, description="of a bag: a list of as many numbers")
    edges: tuple[float, ...] | None = Field(
        None, description="`value` is a number: its row is 1 + how many of these ascending edges it reaches"
    )
    quantiles: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        None, description="the same with edges at these quantiles of the training rows"
    )

    @model_validator(mode="after")
    def _fits(self) -> SparseSpec:
        problems = []
        if not self.bag and (self.max_length is not None or self.weights is not None or self.keep != "last"):
            problems.append("max_length, keep and weights belong to a bag; set bag = true or drop them")
        if self.edges is not None and self.quantiles is not None:
            problems.append("give edges or quantiles, not both")
        if self.bucketised and self.bag:
            problems.append("a bag cannot be bucketised")
        if self.bucketised and self.table is not None:
            problems.append("a bucketised feature has a table of its own; drop `table`")
        if self.edges is not None and (not self.edges or list(self.edges) != sorted(set(self.edges))):
            problems.append("edges must ascend, one at least")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def bucketised(self) -> bool:
        """Whether rows come from edges instead of a vocabulary."""
        return self.edges is not None or self.quantiles is not None

    @property
    def source(self) -> str:
        """The expression."""
        return self.name if self.value is None else self.value

    @property
    def table_name(self) -> str:
        """The table."""
        return self.name if self.table is None else self.table


class DenseSpec(Config):
    """A feature that stays a number, written raw; the model normalises it."""

    name: Name
    value: Expression | None = Field(None, description="column or expression; default: its name")
    normaliser: Normaliser = Field("standard", description="the layer of the model that it goes through")

    @property
    def source(self) -> str:
        """The expression."""
        return self.name if self.value is None else self.value


class ThresholdSpec(Config):
    """A number that depends on the row: a quantile of `value` among the training rows like it.

    The training rows are cut into `bins` parts of equal size by `by`; a row gets the quantile of its part.
    """

    value: Expression
    quantile: Share
    by: Expression | None = Field(None, description="default: one part")
    bins: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="parts")
    edges: tuple[float, ...] | None = Field(None, description="where the parts meet; found by prep, so leave it out")
    values: tuple[float, ...] | None = Field(None, description="the quantile of every part; found by prep likewise")

    @model_validator(mode="after")
    def _a_value_for_each_part(self) -> ThresholdSpec:
        together = (self.values is None) == (self.edges is None)
        if not together or (self.values is not None and len(self.values) != len(self.edges or ()) + 1):
            raise ValueError("edges and values come together, one value more than edges; leave both out")
        return self


class TaskSpec(Config):
    """A label, and where it exists."""

    name: Name
    kind: TaskKind
    label: Expression | None = Field(None, description="column or expression, a truth value or a number; default: name")
    space: Expression | None = Field(None, description="rows where the label exists; default: all")
    threshold: ThresholdSpec | None = Field(None, description="what the word `threshold` means in `label`")
    minimum: float | None = Field(None, description="of a regression label; a smaller one is a bad row")
    maximum: float | None = Field(None, description="of a regression label; a larger one is a bad row")

    @model_validator(mode="after")
    def _range_is_a_regressions(self) -> TaskSpec:
        if self.kind == "binary" and (self.minimum is not None or self.maximum is not None):
            raise ValueError("minimum and maximum belong to a regression; a binary label is 0 or 1")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum = {self.minimum} is above maximum = {self.maximum}")
        return self

    @property
    def source(self) -> str:
        """The expression."""
        return self.name if self.label is None else self.label


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
        None, description="integer; rows of one user or request: GAUC, and the order of valid and test"
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
        if "time" in self.sides:
            problems.append("sides.time: the word `time` means the time of the row; use another name")
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
        letters: dict[str, str] = {}
        for who, name in given.items():
            if name.lower() in taken:
                problems.append(f"{who}: the column is {taken[name.lower()]}; use another name")
            if "__" in name:
                problems.append(f"{who}: two underscores together are for prep itself; use another name")
            other = letters.setdefault(name.lower(), name)
            if other != name:
                problems.append(f"{other!r} and {name!r} differ in case alone, which engines do not tell apart")
        return problems
