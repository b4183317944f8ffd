"""`CompareConfig`: which models are compared, and what of them is made equal; saved as `compare.toml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Tag, model_validator

from ple_rec.config.base import BY_TYPE, Config, Name, NonNegativeInt, Number, PositiveInt
from ple_rec.config.choices import Match

Choice = Annotated[
    Annotated[bool, Tag("boolean")]
    | Annotated[int, Tag("integer")]
    | Annotated[float, Tag("number")]
    | Annotated[str, Tag("string")]
    | Annotated[tuple[Number, ...], Tag("array")],
    BY_TYPE,
]


class VariantConfig(Config):
    """A model of the comparison: a training run, given by where it starts from and what it does differently."""

    base: Annotated[str, Field(min_length=1)] = Field(
        description="recipe or TOML file of the run; a path starts from the folder of this file"
    )
    overrides: tuple[str, ...] = Field((), description="changes of its keys, as --set takes them")


class RangeConfig(Config):
    """The values that a key is tried with: a range of numbers, or a list."""

    low: Number | None = Field(None, description="least number of a range")
    high: Number | None = Field(None, description="greatest number of a range")
    log: bool = Field(False, description="draw the logarithm evenly, as of a learning rate")
    choices: Annotated[tuple[Choice, ...], Field(min_length=2)] | None = Field(
        None, description="or the values themselves"
    )

    @model_validator(mode="after")
    def _a_range_or_a_list(self) -> RangeConfig:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("has choices and a range (low, high, log); give one of the two")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range has low and high; or give choices = [...]")
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true with low = {self.low}; a logarithm needs low > 0")
        return self


class TuneConfig(Config):
    """Equal tuning: as many trials for each variant, judged on the validation split alone."""

    trials: NonNegativeInt = Field(
        0, description="for each variant, the first of them its configuration as written; 0: none"
    )
    space: dict[str, RangeConfig] = Field(
        {},
        description='keys of a run, in quotes, and their values: "model.dropout" = {low = 0.0, high = 0.5}; '
        "default: both learning rates, model.dropout and model.input_dropout",
    )


class CompareConfig(Config):
    """Variants, each with the same seeds, on the same dataset; the cost of the others is made equal to a reference."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="its runs lie in runs/compare/<name>")
    seeds: PositiveInt = Field(5, description="each variant is trained with seeds 0 to N-1")
    match: Match = Field(
        "flops",
        description="what of the variants is made equal, within 1 %, by the widths of their experts: forward FLOPs a "
        "sample of the dense layers, dense parameters, or nothing",
    )
    reference: Name | None = Field(None, description="whose cost the others get; default: the first PLE, or the first")
    baseline: Name | None = Field(
        None,
        description="whose metrics gains are over; default: the first single_task, which is added where there is none",
    )
    tune: TuneConfig = TuneConfig()
    overrides: tuple[str, ...] = Field((), description="changes of every variant's keys, before its own")
    variants: Annotated[dict[Name, VariantConfig], Field(min_length=1)] = Field(description="by the name they go by")

    @model_validator(mode="after")
    def _names_are_variants(self) -> CompareConfig:
        for key in ("reference", "baseline"):
            name = getattr(self, key)
            if name is not None and name not in self.variants:
                raise ValueError(f'{key}: "{name}" is no variant; there are {", ".join(self.variants)}')
        return self
