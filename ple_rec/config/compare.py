"""`CompareConfig`: models, seeds and tuning of a comparison, and the cost that all get; saved as `compare.toml`."""

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
    """Model of a comparison: the configuration of its runs, as a base and changes of it."""

    base: Annotated[str, Field(min_length=1)] = Field(
        description="recipe or TOML file of the run; a path is relative to the folder of this file"
    )
    overrides: tuple[str, ...] = Field((), description="changes of keys of the base, in the form of --set")


class RangeConfig(Config):
    """Values of a key that tuning tries: a range of numbers, or a list."""

    low: Number | None = Field(None, description="least number of a range")
    high: Number | None = Field(None, description="greatest number of a range")
    log: bool = Field(False, description="true to draw the logarithm evenly, for example for a learning rate")
    choices: Annotated[tuple[Choice, ...], Field(min_length=2)] | None = Field(
        None, description="list of the values, instead of a range"
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
    """Equal tuning: the same number of trials for each variant, judged on the validation split alone."""

    trials: NonNegativeInt = Field(
        0, description="trials of each variant; the first is its configuration as written; 0: no tuning"
    )
    space: dict[str, RangeConfig] = Field(
        {},
        description='values to try, by the quoted key of a run: "model.dropout" = {low = 0.0, high = 0.5}; '
        "default: both learning rates, model.dropout and model.input_dropout",
    )


# Text of what each value of `match` makes equal; {} stands for the name of the reference.
MATCHES = {
    "flops": "FLOPs a sample are those of {}, within 1 %",
    "params": "dense parameters are those of {}, within 1 %",
    "none": "each as its own configuration has it: costs are not made equal",
}


class CompareConfig(Config):
    """Variants on the same dataset with the same seeds; their cost is made equal to that of a reference."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the comparison; its runs lie in runs/compare/<name>",
    )
    seeds: PositiveInt = Field(5, description="number of seeds; each variant is trained with seeds 0 to N-1")
    match: Match = Field(
        "flops",
        description="cost that is made equal within 1 % by the widths of the variants' experts: forward FLOPs of the "
        "dense layers for a sample, dense parameters, or nothing",
    )
    reference: Name | None = Field(
        None, description="variant whose cost the others get; default: the first PLE, else the first variant"
    )
    baseline: Name | None = Field(
        None,
        description="variant over which gains are measured; default: the first single_task, which is added if there is "
        "none",
    )
    tune: TuneConfig = TuneConfig()
    overrides: tuple[str, ...] = Field((), description="changes of every variant, applied before the variant's own")
    variants: Annotated[dict[Name, VariantConfig], Field(min_length=1)] = Field(
        description="models of the comparison, by name"
    )

    @model_validator(mode="after")
    def _names_are_variants(self) -> CompareConfig:
        for key in ("reference", "baseline"):
            name = getattr(self, key)
            if name is not None and name not in self.variants:
                raise ValueError(f'{key}: "{name}" is no variant; there are {", ".join(self.variants)}')
        return self
