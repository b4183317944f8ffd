"""`CompareConfig`: which models are compared, and what of them is made equal; saved as `compare.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Name, PositiveInt

Match = Literal["flops", "params", "none"]


class VariantConfig(Config):
    """A model of the comparison: a training run, given by where it starts from and what it does differently."""

    base: Annotated[str, Field(min_length=1)] = Field(
        description="recipe or TOML file of the run; a path starts from the folder of this file"
    )
    overrides: tuple[str, ...] = Field((), description="changes of its keys, as --set takes them")


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
    overrides: tuple[str, ...] = Field((), description="changes of every variant's keys, before its own")
    variants: Annotated[dict[Name, VariantConfig], Field(min_length=1)] = Field(description="by the name they go by")

    @model_validator(mode="after")
    def _names_are_variants(self) -> CompareConfig:
        for key in ("reference", "baseline"):
            name = getattr(self, key)
            if name is not None and name not in self.variants:
                raise ValueError(f'{key}: "{name}" is no variant; there are {", ".join(self.variants)}')
        return self
