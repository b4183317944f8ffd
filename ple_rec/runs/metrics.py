"""Parts of `metrics.json`, the results of a run.

The file may be of another version, or damaged: a field that is absent, or of another type, has its default, and a
number that is not finite is None.
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
from ple_rec.text.json_values import entries, items, mapping, number


def split_tasks(metrics: Mapping[str, Any], split: str) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of each task on one split, in the order of `metrics.json`."""
    return {name: mapping(values) for name, values in mapping(mapping(metrics.get(split)).get("tasks")).items()}


def by_kind(tasks: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return groups of task names that share columns: binary tasks first, then regressions; no group is empty."""
    regressions = [name for name, values in tasks.items() if "mse" in values]
    binaries = [name for name in tasks if name not in regressions]
    return [group for group in (binaries, regressions) if group]


def present(columns: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return the columns that at least one row has, even if its value is null."""
    return [column for column in columns if any(column.key in row for row in rows)]


def paper_sources(metrics: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Return the tables of the paper that figures are from ("PLE, Table 5"), each with its tasks."""
    sources: dict[str, list[str]] = {}
    for name in tasks:
        entry = mapping(mapping(metrics.get("paper")).get(name))
        parts = [str(entry[key]) for key in ("model", "table") if entry.get(key)]
        if parts:
            sources.setdefault(", ".join(parts), []).append(name)
    return sources


Number = Annotated[float | None, BeforeValidator(number)]
Names = Annotated[list[str], BeforeValidator(lambda value: list(map(str, items(value))))]
Numbers = Annotated[list[Number], BeforeValidator(items)]
Rows = Annotated[list[Numbers], BeforeValidator(items)]


class MetricsPart(BaseModel):
    """Part of `metrics.json`."""

    model_config = ConfigDict(frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_default(cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        try:
            return handler(value)
        except ValidationError:
            assert info.field_name is not None
            return cls.model_fields[info.field_name].get_default(call_default_factory=True)

    @classmethod
    def read(cls, value: object) -> Self:
        """Return the part that a JSON value holds; an empty part if it is no object."""
        return cls.model_validate(mapping(value))

    @classmethod
    def read_all(cls, value: object) -> list[Self]:
        """Return the parts of a list; none if the value is no list."""
        return [cls.model_validate(entry) for entry in entries(value)]


class TableHealth(MetricsPart):
    """How training has changed the rows of an embedding table; `training/table_health.py` explains each number."""

    table: str = ""
    rows: Number = None
    dim: Number = None
    never_touched: Number = None
    norms: dict[float, Number] | None = None
    lookups: Number = None
    top_share: Number = None


class GateLevel(MetricsPart):
    """Gate weights A of one level, (outputs, experts); None where an output does not read an expert."""

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

    calibration: Annotated[list[CalibrationBin], BeforeValidator(entries)] = []
    roc: Rows = []

    @property
    def roc_points(self) -> list[list[float]]:
        """Pairs of false-positive and true-positive rate; pairs with a missing value are left out."""
        points = [[value for value in point if value is not None] for point in self.roc]
        return [point for point in points if len(point) == 2]
