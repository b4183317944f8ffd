"""Columns that a preparation makes: features and their embedding tables, labels and their sample spaces.

A task's sample space is the set of rows that have its label. Row 0 of an embedding table is that of unknown values.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Name, NonNegativeInt, PositiveInt, TaskKind
from ple_rec.config.prep_inputs import Expression
from ple_rec.config.prep_splits import Share
from ple_rec.config.schema import Normaliser, VectorNormaliser

MAX_ROWS = 2**31 - 1  # Ids of an embedding table are int32.
MAX_WIDTH = 65_536  # Greatest number of components of a vector.


class AdmissionSpec(Config):
    """Condition on which a value without a row gets one on an appended day, if a row is free."""

    count: PositiveInt = Field(description="training rows of these days that have the value, at least")
    days: PositiveInt = Field(description="number of days, of which the appended day is the last")


class ExpirySpec(Config):
    """Condition on which a value loses its row on an appended day, so that another value can get the row."""

    unseen_days: PositiveInt = Field(
        description="number of days, of which the appended day is the last, without a training row that has the value"
    )


class TableSpec(Config):
    """Embedding table and the vocabulary of its rows."""

    min_count: PositiveInt = Field(
        1, description="values with fewer occurrences in train share row 0 with unknown values"
    )
    capacity: Annotated[int, Field(gt=1, le=MAX_ROWS)] | None = Field(
        None,
        description="rows to allocate, so that values that --append adds later find free rows; default: the rows in "
        "use, and --append gives no row to a new value, since checkpoints of the parent must fit",
    )
    overflow: Literal["unknown", "hash"] = Field(
        "unknown",
        description="row of a value that is not in the vocabulary; unknown: row 0; hash: one of the last `hash_rows`",
    )
    hash_rows: NonNegativeInt = Field(0, description="rows for hashed values at the end of the table; part of capacity")
    admit: AdmissionSpec | None = Field(
        None,
        exclude_if=lambda admit: admit is None,
        description="values that get a row on a day that --append adds; default: those that occur `min_count` times in "
        "the training rows of that day",
    )
    expire: ExpirySpec | None = Field(
        None,
        exclude_if=lambda expire: expire is None,
        description="values that lose their row on a day that --append adds; default: none",
    )

    @model_validator(mode="after")
    def _hash_needs_rows(self) -> TableSpec:
        if (self.overflow == "hash") != bool(self.hash_rows):
            raise ValueError('overflow = "hash" needs hash_rows of 1 or more, and hash_rows need overflow = "hash"')
        if self.capacity is not None and self.hash_rows >= self.capacity:
            raise ValueError(f"hash_rows = {self.hash_rows} leave no row of capacity = {self.capacity}")
        return self

    @model_validator(mode="after")
    def _admission_fits(self) -> TableSpec:
        problems = []
        if self.admit is not None and self.min_count > self.admit.count:
            problems.append(
                f"min_count = {self.min_count} leaves out values on the first days that admit.count = "
                f"{self.admit.count} admits on the next; lower min_count, or raise admit.count"
            )
        if self.admit is not None and self.expire is not None and self.expire.unseen_days < self.admit.days:
            problems.append(
                f"expire.unseen_days = {self.expire.unseen_days} is less than admit.days = {self.admit.days}, so a "
                "value could expire and be admitted on the same day; raise unseen_days, or lower admit.days"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def counted_days(self) -> int:
        """Number of latest days whose training rows are counted by value; 0 without `admit` and `expire`."""
        admission_days = 0 if self.admit is None else self.admit.days
        return max(admission_days, 0 if self.expire is None else self.expire.unseen_days)


class FeatureSpec(Config):
    """Base class of the features of a preparation."""

    name: Name
    value: Expression | None = Field(None, description="column or expression; default: the column of its name")

    @property
    def source(self) -> str:
        """Column or expression of the feature."""
        return self.name if self.value is None else self.value


class SparseSpec(FeatureSpec):
    """Feature whose values are rows of an embedding table."""

    value: Expression | None = Field(
        None, description="column or expression of text or integers; default: the column of its name"
    )
    table: Name | None = Field(None, description="table, which features may share; default: a table of its name")
    bag: bool = Field(False, description="true if `value` is a list")
    max_length: PositiveInt | None = Field(None, description="most values of a bag; default: all of them")
    keep: Literal["first", "last"] = Field("last", description="end of a longer bag that is kept")
    weights: Expression | None = Field(None, description="weights of a bag's values, a list of the same length")
    edges: tuple[float, ...] | None = Field(
        None, description="ascending edges, if `value` is a number x; its row is 1 + the number of edges <= x"
    )
    quantiles: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        None, description="number of buckets, if `value` is a number; prep sets the edges at training quantiles"
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
        """True if the rows are buckets of a number instead of entries of a vocabulary."""
        return self.edges is not None or self.quantiles is not None

    @property
    def table_name(self) -> str:
        """Name of the embedding table."""
        return self.name if self.table is None else self.table


class DenseSpec(FeatureSpec):
    """Feature that stays a number; prep writes it as it is, and the model normalises it."""

    normaliser: Normaliser = Field("standard", description="normalisation in the model")


class VectorSpec(FeatureSpec):
    """Feature that is a vector, a list of `width` numbers, such as an embedding of the content.

    If `value` is just a column of a side table, the vectors are stored once in a table of the dataset (a frozen table),
    and each row of a part has the number of its vector.
    """

    value: Expression | None = Field(
        None, description="column or expression of lists of numbers; default: the column of its name"
    )
    width: Annotated[int, Field(gt=0, le=MAX_WIDTH)] = Field(description="number of numbers in every list")
    normaliser: VectorNormaliser = Field("none", description="normalisation in the model")


class ThresholdSpec(Config):
    """Threshold of a row: a quantile of `value` among similar training rows.

    Training rows in the task's sample space are divided into `bins` bins of equal size by `by`; rows without a value of
    `by` are a bin of their own. The threshold of a row is the quantile of its bin.
    """

    value: Expression
    quantile: Share
    by: Expression | None = Field(None, description="number by which rows are divided into bins; default: one bin")
    bins: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="number of bins")
    edges: tuple[float, ...] | None = Field(
        None, description="values of `by` at which the next bin begins; default: computed by prep"
    )
    values: tuple[float, ...] | None = Field(
        None, description="threshold of each bin, if `edges` are set; default: computed by prep"
    )
    missing: float | None = Field(
        None, description="threshold of rows without `by`, if `edges` are set; default: threshold of the first bin"
    )

    @model_validator(mode="after")
    def _a_value_for_each_bin(self) -> ThresholdSpec:
        together = (self.values is None) == (self.edges is None) and (self.values is not None or self.missing is None)
        if not together or (self.values is not None and len(self.values) != len(self.edges or ()) + 1):
            raise ValueError("edges and values come together, one value more than edges; leave them out")
        return self


class TaskSpec(Config):
    """Task: its label, and the rows that have one."""

    name: Name
    kind: TaskKind
    label: Expression | None = Field(
        None, description="column or expression of booleans or numbers; default: the column of its name"
    )
    space: Expression | None = Field(None, description="condition of rows that have the label; default: all rows")
    threshold: ThresholdSpec | None = Field(None, description="value of the word `threshold` in `label`")
    minimum: float | None = Field(
        None, description="least label of a regression; a row with a smaller one is a bad row"
    )
    maximum: float | None = Field(
        None, description="greatest label of a regression; a row with a larger one is a bad row"
    )

    @model_validator(mode="after")
    def _label_range_fits(self) -> TaskSpec:
        if self.kind == "binary" and (self.minimum is not None or self.maximum is not None):
            raise ValueError("minimum and maximum belong to a regression; a binary label is 0 or 1")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum = {self.minimum} is above maximum = {self.maximum}")
        return self

    @property
    def source(self) -> str:
        """Column or expression of the label."""
        return self.name if self.label is None else self.label
