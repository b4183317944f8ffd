"""`DatasetSchema`: the content of `schema.toml`, which describes a dataset directory. data_prep writes it.

DIR/schema.toml  DIR/stats.json  DIR/{train,valid,test}/part-*.parquet  DIR/vocab/<table>.parquet
DIR/vectors/<feature>.parquet  DIR/histories/<history>/<column>.npy  DIR/_SUCCESS
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Name, NonNegativeInt, PositiveInt, Split, TaskKind

SCHEMA_VERSION = 1
SUCCESS_FILE = "_SUCCESS"
SCHEMA_FILE = "schema.toml"
STATS_FILE = "stats.json"
STATS_PAGE = "stats.html"
VOCAB_DIR = "vocab"
VOCAB_DAY = "day"  # Column of a vocabulary: day of the row's assignment, in days since 1970-01-01.
VECTORS_DIR = "vectors"
RATES_DIR = "rates"
HISTORIES_DIR = "histories"
LOG_TIME = "log_time"  # Column of the parts and of events: seconds since 1970-01-01 UTC.
FINGERPRINT_KEY = b"ple_rec.fingerprint"  # Key of the dataset's fingerprint in the metadata of every Parquet file.

Normaliser = Literal["none", "standard", "log", "quantile"]
VectorNormaliser = Literal["none", "unit", "standard"]


class Table(Config):
    """Embedding table; it may have free rows for new values of later days.

        row 0                             missing values; without `hash_rows`, also values not in the vocabulary
        1 .. rows - 1                     rows of the vocabulary: values, and freed rows, whose values have expired
        rows .. capacity - hash_rows - 1  free
        the last `hash_rows`              values not in the vocabulary, by their hash

    Args:
        name: Name of the table.
        rows: Number of rows of the vocabulary, including row 0 and freed rows.
        capacity: Number of allocated rows; None for `rows`.
        hash_rows: Number of rows for hashed values at the end of the capacity.
    """

    name: Name
    rows: PositiveInt
    capacity: PositiveInt | None = None
    hash_rows: NonNegativeInt = 0

    @model_validator(mode="after")
    def _rows_fit(self) -> Table:
        if self.capacity is None and self.hash_rows:
            raise ValueError(f"hash_rows = {self.hash_rows} without capacity; they are its last rows. Give a capacity")
        if self.allocated_rows - self.hash_rows < self.rows:
            hashed = f" and {self.hash_rows} hash_rows" if self.hash_rows else ""
            raise ValueError(
                f"capacity = {self.capacity} is too small for {self.rows} rows{hashed}; "
                f"it must be at least {self.rows + self.hash_rows}"
            )
        return self

    @property
    def allocated_rows(self) -> int:
        """Number of rows of the embedding table; every id is smaller."""
        return self.rows if self.capacity is None else self.capacity

    @property
    def free_rows(self) -> range:
        """Rows after the vocabulary, for new values of later days. Freed rows of the vocabulary are not among them."""
        return range(self.rows, self.allocated_rows - self.hash_rows)


class NamedFeature(Config):
    """Base class of the features of a dataset."""

    name: Name


class SparseFeature(NamedFeature):
    """Column of rows of a table: `int32` (one value) or `list<int32>` (a bag, with optional `list<float>` weights)."""

    table: Name
    bag: bool = False
    weights: Name | None = None

    @model_validator(mode="after")
    def _weights_need_a_bag(self) -> SparseFeature:
        if self.weights is not None and not self.bag:
            raise ValueError(f"weights = {self.weights!r} on a single-valued feature; only a bag has weights")
        return self


class DenseFeature(NamedFeature):
    """Column of raw `float32` values (null = missing), which the model normalises.

    The statistics are those of the training split in `stats.json`.

        standard: (x - mean) / std
        log:      (sign(x) log(1 + |x|) - log_mean) / log_std
        quantile: sqrt(2) erfinv(2 u - 1), where u is the clipped piecewise-linear empirical CDF through `quantiles`
        none:     x

    A missing value becomes 0 after normalisation.
    """

    normaliser: Normaliser = "standard"


class VectorTable(Config):
    """Frozen table of vectors, which is stored once as `vectors/<feature>.parquet`; a model does not train it.

        key_<key>   int64 or text: key of the row, such as the id of a video
        day         int32: days since 1970-01-01 from which the vector is valid; only if the vectors are dated
        vector      fixed_size_list<float32>[width]

    Rows count from 1; row 0 stands for a missing vector and is not stored.

    Args:
        keys: Names of the keys.
        rows: Number of rows.
        dated: True if the table has the column `day`. Rows of one key then differ in their day.
    """

    keys: Annotated[tuple[str, ...], Field(min_length=1)]
    rows: NonNegativeInt
    dated: bool = False


class VectorFeature(NamedFeature):
    """Feature that is a vector v of `width` numbers, such as an embedding of the content that another model computed.

    Without `table`, its column has the vectors (`fixed_size_list<float32>[width]`, null = missing). With `table`, it
    has rows of the frozen table (`int32`, 0 = missing). The normaliser is applied in the model:

        none:     v
        unit:     v / |v|
        standard: (v - mean) / std by component, with the statistics in `stats.json`

    A missing vector is 0 after normalisation.
    """

    width: PositiveInt
    normaliser: VectorNormaliser = "none"
    table: VectorTable | None = None


def history_offsets(history: str) -> tuple[str, str]:
    """Return the names of the columns (int64) with the numbers of a row's first event and of the one after its last."""
    return f"{history}_begin", f"{history}_end"


def age_table(history: str) -> str:
    """Return the name of the embedding table of a history's ages, which is that of their sparse column, too."""
    return f"{history}_age"


class HistoryItem(Config):
    """Value of each event of a history: a row of the table of a single-valued sparse feature.

    Args:
        feature: Name of the sparse feature.
        table: Name of its embedding table.
    """

    feature: Name
    table: Name


class HistoryFeature(NamedFeature):
    """Feature that is a list of events before a row: its history, at most `length` events, the oldest first.

    The events of all rows are stored once, in `histories/<name>/`: `log_time.npy` has the time of each event (int64,
    seconds since 1970-01-01 UTC), and `<feature>.npy` the row of the item's table (int32). The history of a row of a
    part is the events `<name>_begin` to `<name>_end` - 1. The part has the time of the row in the column `log_time`.

    The age of an event is the time of the row minus that of the event, a >= 0. Its bucket is a row of an embedding
    table `<name>_age`: 1 + (number of `age_edges` <= a). Row 0 of this table is not used.

    Args:
        items: Values of each event.
        length: Most events of a history.
        age_edges: Boundaries of the buckets of ages, in seconds.
        events: Number of stored events.
    """

    items: Annotated[tuple[HistoryItem, ...], Field(min_length=1)]
    length: PositiveInt
    age_edges: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    events: NonNegativeInt

    def columns(self) -> tuple[SparseFeature, ...]:
        """Return the lists of table rows of which a history consists: those of each item, then those of the ages.

        Their names are `<name>.<feature>` and `<name>_age`. In a row, all of them have the same number of values.
        """
        tables = {f"{self.name}.{item.feature}": item.table for item in self.items}
        tables[age_table(self.name)] = age_table(self.name)
        # The dot keeps these names apart from those of features, which have none; validation would refuse it.
        return tuple(SparseFeature.model_construct(name=name, table=table, bag=True) for name, table in tables.items())


class Task(Config):
    """Task with a label column (`float32`) and, unless every sample counts, a `bool` column for its sample space."""

    name: Name
    kind: TaskKind
    label: Name
    space: Name | None = None


class SplitInfo(Config):
    """Size of one split."""

    rows: NonNegativeInt
    row_groups: NonNegativeInt


class DatasetSchema(Config):
    """Content of `schema.toml`.

    `fingerprint` identifies the dataset. `parent` is the fingerprint of the dataset to which `prep --append` added a
    day. Each of its ids means the same here, except ids that were assigned anew since: a value may lose its row, and
    another value may get the row later (`expire`). `ple_rec.data.row_assignments` tells these ids from the others.
    `ancestors` are the fingerprints of the parent, of its own parent, and so on; a schema that is written by hand may
    leave them out. `day` is the last training day, such as 2024-05-08, and `ancestor_days` are those of the nearest
    ancestors, in the order of `ancestors`, as far as they are known; only a split by day has them. `group` is the
    column whose equal values mark the rows of one user or request. `subgroup` is a column that divides the rows of a
    group further, such as by day: equal values mark rows of one group, too. `group_by` are the expressions of the group
    and of what divides it, as results name them.

    Raises:
        pydantic.ValidationError: There are problems, such as two features of one name, a feature whose table is not
            declared, a label that is also a feature, or ancestors that do not begin with the parent.
    """

    version: Literal[1]
    name: str
    fingerprint: str
    parent: str | None = None
    ancestors: tuple[str, ...] = ()
    day: str | None = Field(None, exclude_if=lambda day: day is None)
    ancestor_days: tuple[str, ...] = Field((), exclude_if=lambda days: not days)
    tables: tuple[Table, ...] = ()
    sparse: tuple[SparseFeature, ...] = ()
    dense: tuple[DenseFeature, ...] = ()
    vectors: tuple[VectorFeature, ...] = ()
    histories: tuple[HistoryFeature, ...] = Field((), exclude_if=lambda histories: not histories)
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    sample_weight: Name | None = None
    group: Name | None = None
    subgroup: Name | None = None
    group_by: tuple[str, ...] | None = None
    splits: dict[Split, SplitInfo]

    @model_validator(mode="after")
    def _names_fit(self) -> DatasetSchema:
        problems = []
        tables = {table.name for table in self.tables}
        problems += [
            f"sparse feature {feature.name!r} reads table {feature.table!r}, which is not among {sorted(tables)}"
            for feature in self.sparse
            if feature.table not in tables
        ]
        problems += self._history_problems(tables)
        for kind, names in {
            "table": [table.name for table in self.tables],
            "feature": self.features(),
            "task": [task.name for task in self.tasks],
        }.items():
            twice = sorted({name for name in names if names.count(name) > 1})
            problems += [f"{kind} {name!r} is declared twice" for name in twice]
        features = set(self.features())
        roles: dict[str, list[str | None]] = {
            "label": [task.label for task in self.tasks],
            "sample space": [task.space for task in self.tasks],
            "sample weight": [self.sample_weight],
            "bag's weights": [f.weights for f in self.sparse],
        }
        problems += [
            f"column {column!r} is both a feature and a {role}; a model must not read it"
            for role, columns in roles.items()
            for column in columns
            if column in features
        ]
        if self.subgroup is not None and self.group is None:
            problems.append(f"subgroup {self.subgroup!r} divides the rows of a group further; name a column by `group`")
        if not features:
            problems.append("no feature (sparse, dense or vectors); a model needs at least one")
        problems += self._lineage_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _history_problems(self, tables: set[str]) -> list[str]:
        table_by_feature = {feature.name: feature.table for feature in self.sparse if not feature.bag}
        problems = []
        for history in self.histories:
            if age_table(history.name) not in tables:
                problems.append(f"history {history.name!r} needs a table {age_table(history.name)!r} for its ages")
            problems += [
                f"history {history.name!r}: item {item.feature!r} of table {item.table!r}; an item is a single-valued "
                "sparse feature, with its table"
                for item in history.items
                if table_by_feature.get(item.feature) != item.table
            ]
        return problems

    def _lineage_problems(self) -> list[str]:
        problems = []
        if self.ancestors and self.ancestors[0] != self.parent:
            parent = "missing" if self.parent is None else f"{self.parent!r}"
            problems.append(f"parent is {parent}, and the first of ancestors {self.ancestors[0]!r}; they are the same")
        if self.fingerprint in (self.parent, *self.ancestors):
            problems.append(f"fingerprint {self.fingerprint!r} is also that of an ancestor; every dataset has its own")
        twice = sorted({name for name in self.ancestors if self.ancestors.count(name) > 1})
        problems += [f"ancestor {name!r} is named twice" for name in twice]
        return problems + self._day_problems()

    def _day_problems(self) -> list[str]:
        if self.day is None:
            return ["ancestor_days without day; the dataset has a last training day, too"] if self.ancestor_days else []
        days = (self.day, *self.ancestor_days)
        try:
            dates = [date.fromisoformat(day) for day in days]
        except ValueError:
            return [f"day and ancestor_days are {', '.join(days)}; write each day as YYYY-MM-DD"]
        problems = []
        if len(days) > len(self.lineage()):
            problems.append(f"{len(days) - 1} ancestor_days for {len(self.lineage()) - 1} ancestors; drop some")
        if any(later <= earlier for later, earlier in pairwise(dates)):
            problems.append(
                f"day and ancestor_days are {', '.join(days)}; each day comes after the one that follows it"
            )
        return problems

    @property
    def group_names(self) -> tuple[str, str] | None:
        """Names of the group and of the subgroup in results, such as `user_id` and `user_id, time.day`.

        They are the names of the columns if the schema has no `group_by`; None without a subgroup.
        """
        if self.group is None or self.subgroup is None:
            return None
        return (self.group_by[0], ", ".join(self.group_by)) if self.group_by else (self.group, self.subgroup)

    def features(self) -> list[str]:
        """Return the names of all features: sparse ones, dense ones, vectors, histories."""
        return [feature.name for feature in (*self.sparse, *self.dense, *self.vectors, *self.histories)]

    def history_columns(self) -> tuple[SparseFeature, ...]:
        """Return the lists of table rows of which all histories consist."""
        return tuple(column for history in self.histories for column in history.columns())

    def table_rows(self) -> dict[str, int]:
        """Return the `allocated_rows` of each table by its name; every id of the table is smaller."""
        return {table.name: table.allocated_rows for table in self.tables}

    def lineage(self) -> tuple[str, ...]:
        """Return the fingerprints of this dataset and of all ancestors, the nearest first.

        A model that was trained on any of them can be evaluated and trained further on this dataset.
        """
        parent = () if self.parent is None else (self.parent,)
        return (self.fingerprint, *(self.ancestors or parent))

    def lineage_days(self) -> dict[str, str]:
        """Return the last training day of this dataset and of its ancestors, by fingerprint, as far as it is known."""
        days = () if self.day is None else (self.day, *self.ancestor_days)
        return dict(zip(self.lineage(), days, strict=False))

    def columns(self) -> list[str]:
        """Return the distinct Parquet columns of features, times, labels, spaces, sample weight, group and subgroup."""
        names: list[str | None] = []
        for feature in self.sparse:
            names += [feature.name, feature.weights]
        names += [feature.name for feature in (*self.dense, *self.vectors)]
        names += [LOG_TIME] if self.histories else []
        names += [offset for history in self.histories for offset in history_offsets(history.name)]
        for task in self.tasks:
            names += [task.label, task.space]
        names += [self.sample_weight, self.group, self.subgroup]
        return list(dict.fromkeys(name for name in names if name is not None))
