"""The model variants, each with the fields that it has and no others: a union tagged by `model.variant`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, Fraction, Name, NonNegativeInt, PositiveInt, Sizes

Activation = Literal["relu", "gelu", "silu", "tanh"]


class TowerConfig(Config):
    """One tower per task: hidden layers, then one output."""

    hidden: tuple[PositiveInt, ...] = Field((64,), description="hidden layer sizes; empty for a linear tower")
    activation: Activation = Field("relu", description="non-linearity after each hidden layer")
    dropout: Fraction = Field(0.0, description="dropout probability after each hidden layer")


class _Variant(Config):
    activation: Activation = Field("relu", description="non-linearity after each expert (bottom) layer")
    dropout: Fraction = Field(0.0, description="dropout probability after each expert (bottom) layer")
    input_dropout: Fraction = Field(0.0, description="dropout probability on the concatenated inputs x")
    tower: TowerConfig = Field(TowerConfig(), description="the towers, the same for every task")


class LevelConfig(Config):
    """The experts of one extraction level (PAPER: m_k own experts of task k and m_s shared ones)."""

    task_experts: NonNegativeInt | dict[Name, NonNegativeInt] = Field(
        1, description="own experts: one number for every task, or a table by task"
    )
    shared_experts: NonNegativeInt = Field(1, description="experts that every task reads")
    expert_hidden: Sizes = Field((128,), description="layer sizes of each expert; the last is its output width")

    def own(self, task: str) -> int:
        """The number of experts that `task` owns."""
        return self.task_experts[task] if isinstance(self.task_experts, dict) else self.task_experts

    @model_validator(mode="after")
    def _every_output_reads_something(self) -> LevelConfig:
        counts = self.task_experts.values() if isinstance(self.task_experts, dict) else [self.task_experts]
        if self.shared_experts == 0 and min(counts, default=0) == 0:
            raise ValueError(
                "shared_experts = 0 leaves a task without own experts nothing to read; give it at least one"
            )
        return self


class PleConfig(_Variant):
    """Progressive layered extraction (Eq. 6-7): CGC levels, the inner ones with a shared output."""

    variant: Literal["ple"]
    levels: Annotated[tuple[LevelConfig, ...], Field(min_length=1)] = Field(description="bottom level first")

    @model_validator(mode="after")
    def _inner_levels_share(self) -> PleConfig:
        for i, level in enumerate(self.levels):
            if len(self.levels) > 1 and level.shared_experts == 0:
                raise ValueError(f"levels[{i}].shared_experts = 0; PLE of several levels passes on a shared stream")
        return self


class CgcConfig(_Variant, LevelConfig):
    """Customized gate control (Eq. 2-5): one level of own and shared experts."""

    variant: Literal["cgc"]


class MmoeConfig(_Variant):
    """Multi-gate mixture of experts: shared experts, one gate per task."""

    variant: Literal["mmoe"]
    experts: PositiveInt = Field(description="number of shared experts")
    expert_hidden: Sizes = Field((128,), description="layer sizes of each expert; the last is its output width")


class HardSharingConfig(_Variant):
    """Hard parameter sharing: one bottom that every tower reads."""

    variant: Literal["hard_sharing"]
    bottom: Sizes = Field((256, 128), description="layer sizes of the shared bottom")


class SingleTaskConfig(_Variant):
    """Single-task: one bottom per task, nothing shared but the embedding tables and the batch."""

    variant: Literal["single_task"]
    bottom: Sizes = Field((256, 128), description="layer sizes of each task's bottom")


ModelConfig = Annotated[
    PleConfig | CgcConfig | MmoeConfig | HardSharingConfig | SingleTaskConfig, Field(discriminator="variant")
]
