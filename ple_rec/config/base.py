"""Strict, frozen base class of every configuration, and the field types that they share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class Config(BaseModel):
    """Frozen configuration class; unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def migrate(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Return the document of an older file in the form of this version; a class with older formats overrides it."""
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
    """Return the JSON schema's name for the type of a value; None if JSON has no such type."""
    return _JSON_TYPES.get(type(value))


# A union without a tag selects the member by the type of the value, so that messages speak of that member alone.
BY_TYPE = Discriminator(json_type)
Number = Annotated[Annotated[int, Tag("integer")] | Annotated[float, Tag("number")], BY_TYPE]

TaskKind = Literal["binary", "regression"]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
