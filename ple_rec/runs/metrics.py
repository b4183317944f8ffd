"""Parts of `metrics.json`, the results of a run, as classes, and functions that select and group its metrics.

The file may be of another version, or damaged. So a field that is absent, or of another type, gets its default, and a
number that is not finite becomes None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from ple_rec.config.metrics import Metric
from ple_rec.text.json_values import as_list, as_mapping, as_mappings, as_number


def split_tasks(metrics: Mapping[str, Any], split: str) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of each task on one split, in the order of `metrics.json`."""
    return {
        name: as_mapping(values) for name, values in as_mapping(as_mapping(metrics.get(split)).get("tasks")).items()
    }


def group_by_kind(tasks: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the names of binary tasks, then those of regressions, without empty groups; their metrics differ."""
    regressions = [name for name, values in tasks.items() if "mse" in values]
    binaries = [name for name in tasks if name not in regressions]
    return [group for group in (binaries, regressions) if group]


def present_columns(columns: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return the columns that at least one row has, even if its value is null."""
    return [column for column in columns if any(column.key in row for row in rows)]


def paper_sources(metrics: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of tasks by the table of a paper that has figures for them, such as "PLE, Table 5"."""
    sources: dict[str, list[str]] = {}
    for name in tasks:
        entry = as_mapping(as_mapping(metrics.get("paper")).get(name))
        parts = [str(entry[key]) for key in ("model", "table") if entry.get(key)]
        if parts:
            sources.setdefault(", ".join(parts), []).append(name)
    return sources


# Types of fields. A value that is no number becomes None, and one that is no list becomes an empty list. `Rows` is a
# matrix, row by row.
Number = Annotated[float | None, BeforeValidator(as_number)]
Names = Annotated[list[str], BeforeValidator(lambda value: list(map(str, as_list(value))))]
Numbers = Annotated[list[Number], BeforeValidator(as_list)]
Rows = Annotated[list[Numbers], BeforeValidator(as_list)]


class MetricsPart(BaseModel):
    """Part of `metrics.json`; a field that is absent or of another type gets its default."""

    model_config = ConfigDict(frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_default(cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        try:
            return handler(value)
        except ValidationError:
            # Pydantic leaves the name of the field out only if a type is validated outside a model.
            assert info.field_name is not None
            return cls.model_fields[info.field_name].get_default(call_default_factory=True)

    @classmethod
    def read(cls, value: object) -> Self:
        """Return the part of a JSON object; a part with all defaults for a value that is not an object."""
        return cls.model_validate(as_mapping(value))

    @classmethod
    def read_all(cls, value: object) -> list[Self]:
        """Return the part of each object in a JSON list; an empty list for a value that is not a list."""
        return [cls.model_validate(entry) for entry in as_mappings(value)]


class TableHealth(MetricsPart):
    """How training has changed the rows of an embedding table; `training/table_health.py` explains each number.

    `norms` has quantiles of the norms of the rows, by their share: 0.5 is the median.
    """

    table: str = ""
    rows: Number = None
    dim: Number = None
    never_touched: Number = None
    norms: dict[float, Number] | None = None
    lookups: Number = None
    top_share: Number = None


class GateLevel(MetricsPart):
    """Weights of the experts in the outputs of one level: mean and standard deviation over samples, (outputs, experts).

    A weight is None where an output does not read an expert.
    """

    level: int | str = ""
    mixing: str = "softmax"
    outputs: Names = []
    experts: Names = []
    mean: Rows = []
    std: Rows = []


class CalibrationBin(MetricsPart):
    """Bin of predictions: their mean, the mean of the labels, and the weight of the rows."""

    predicted: Number = None
    observed: Number = None
    weight: Number = None


class RecordedCurves(MetricsPart):
    """Curves of a binary task."""

    calibration: Annotated[list[CalibrationBin], BeforeValidator(as_mappings)] = []
    roc: Rows = []

    @property
    def roc_points(self) -> list[list[float]]:
        """Pairs of false-positive and true-positive rate; pairs with a missing value are left out."""
        points = [[value for value in point if value is not None] for point in self.roc]
        return [point for point in points if len(point) == 2]
