"""Parts of `metrics.json` as types, for whoever reads more than a metric of it.

A file may be of another version, or damaged. So a field that is absent, or not what it should be, has its default, and
a number that is not finite is None.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from ple_rec.runs.results import entries, items, mapping, number

Number = Annotated[float | None, BeforeValidator(number)]
Names = Annotated[list[str], BeforeValidator(lambda value: list(map(str, items(value))))]
Numbers = Annotated[list[Number], BeforeValidator(items)]
Rows = Annotated[list[Numbers], BeforeValidator(items)]


class Recorded(BaseModel):
    """A part of a file that a run wrote."""

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
        """Return the part that a value is; one without anything where it is no object."""
        return cls.model_validate(mapping(value))

    @classmethod
    def read_all(cls, value: object) -> list[Self]:
        """Return the parts of a list; none where the value is no list."""
        return [cls.model_validate(entry) for entry in entries(value)]


class TableHealth(Recorded):
    """What training did to the rows of an embedding table; `training/table_health.py` says what each number is."""

    table: str = ""
    rows: Number = None
    dim: Number = None
    never_touched: Number = None
    norms: dict[float, Number] | None = None
    lookups: Number = None
    top_share: Number = None


class GateLevel(Recorded):
    """The weights A of one level: (outputs, experts), None where an output does not read an expert."""

    level: int | str = ""
    mixing: str = "softmax"
    outputs: Names = []
    experts: Names = []
    mean: Rows = []
    std: Rows = []


class CalibrationBin(Recorded):
    """A bin of predictions: their mean, the mean of the labels, and the weight of the rows."""

    predicted: Number = None
    observed: Number = None
    weight: Number = None


class Curves(Recorded):
    """The curves of a binary task."""

    calibration: Annotated[list[CalibrationBin], BeforeValidator(entries)] = []
    roc: Rows = []

    @property
    def roc_points(self) -> list[list[float]]:
        """Pairs of false-positive and true-positive rate, those that are whole."""
        points = [[value for value in point if value is not None] for point in self.roc]
        return [point for point in points if len(point) == 2]
