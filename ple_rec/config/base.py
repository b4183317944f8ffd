"""Base class of every configuration (strict and frozen pydantic models), and the field types that they share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class Config(BaseModel):
    """Frozen configuration class; unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def migrate(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a file in the present format. A class that has older formats overrides this method."""
        return raw


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]

_JSON_TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "object",
}


def json_type(value: object) -> str | None:
    """Return the JSON schema's name for the type of a value; None for null and for a type that JSON does not have."""
    return _JSON_TYPES.get(type(value))


# Selects the member of a union by the type of the value, so that errors are those of this member alone. `Tag` names the
# type that a member takes.
BY_TYPE = Discriminator(json_type)
Number = Annotated[Annotated[int, Tag("integer")] | Annotated[float, Tag("number")], BY_TYPE]

TaskKind = Literal["binary", "regression"]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
