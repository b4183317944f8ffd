"""What rows become: features and their tables, labels and their spaces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Name, NonNegativeInt, PositiveInt, TaskKind
from ple_rec.config.prep_inputs import Expression
from ple_rec.config.prep_splits import Share
from ple_rec.config.schema import Normaliser

MAX_ROWS = 2**31 - 1  # of an embedding table, whose ids are int32


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

    The training rows in the task's space are cut into `bins` parts of equal size by `by`, and those without `by` are a
    part of their own; a row gets the quantile of its part.
    """

    value: Expression
    quantile: Share
    by: Expression | None = Field(None, description="default: one part")
    bins: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="parts")
    edges: tuple[float, ...] | None = Field(
        None, description="values of `by` at which the next part begins; default: those that prep finds"
    )
    values: tuple[float, ...] | None = Field(
        None, description="threshold of each part, with `edges`; default: those that prep finds"
    )
    missing: float | None = Field(
        None, description="threshold of rows without `by`, with `edges`; default: that of the first part"
    )

    @model_validator(mode="after")
    def _a_value_for_each_part(self) -> ThresholdSpec:
        together = (self.values is None) == (self.edges is None) and (self.values is not None or self.missing is None)
        if not together or (self.values is not None and len(self.values) != len(self.edges or ()) + 1):
            raise ValueError("edges and values come together, one value more than edges; leave them out")
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
