"""Configurations of the model variants: `[model]` of a run is one of them, which the key `variant` selects.

Equations are those of the PLE paper (Tang et al., 2020). Level, expert, gate, bottom and tower are its terms, too.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from ple_rec.config.base import BY_TYPE, Config, Fraction, Name, NonNegativeFloat, PositiveInt, Sizes

Activation = Literal["relu", "gelu", "silu", "tanh"]
ExpertCount = Annotated[int, Field(ge=0, le=10_000)]  # Each expert is a module; far more would exhaust memory.
PositiveExpertCount = Annotated[int, Field(gt=0, le=10_000)]
TaskExpertCounts = Annotated[
    Annotated[ExpertCount, Tag("integer")] | Annotated[dict[Name, ExpertCount], Tag("object")], BY_TYPE
]


class TowerConfig(Config):
    """Tower of each task: hidden layers, then one output."""

    hidden: tuple[PositiveInt, ...] = Field((64,), description="hidden layer sizes; empty for a linear tower")
    activation: Activation = Field("relu", description="non-linearity after each hidden layer")
    dropout: Fraction = Field(0.0, description="dropout probability after each hidden layer")


# Default of `vector_dim`. The key itself has no default, so that fingerprints of configurations without it stay valid.
VECTOR_DIM = 16
# Defaults of `history` and `history_hidden`, which have none themselves for the same reason.
HISTORY = "mean"
HISTORY_HIDDEN = (36,)


class _Variant(Config):
    """Keys of every model variant."""

    activation: Activation = Field("relu", description="non-linearity after each layer of the experts or bottoms")
    dropout: Fraction = Field(0.0, description="dropout probability after each layer of the experts or bottoms")
    input_dropout: Fraction = Field(0.0, description="dropout probability on the concatenated inputs x")
    vector_dim: PositiveInt | None = Field(
        None, description="columns of x to which each vector of the dataset is projected; default: 16"
    )
    history: Literal["mean", "din"] | None = Field(
        None,
        description="mean: the mean of a history's events; din: their sum, weighted by attention to the item of the "
        'row; default: "mean"',
    )
    history_hidden: Sizes | None = Field(
        None, description='hidden layer sizes of the activation unit of history = "din"; default: 36'
    )
    tower: TowerConfig = Field(TowerConfig(), description="layers of the towers, equal for every task")

    @model_validator(mode="after")
    def _hidden_layers_are_those_of_attention(self) -> Self:
        if self.history_hidden is not None and self.history != "din":
            raise ValueError(
                'history_hidden: only history = "din" has hidden layers. Set history = "din", or remove history_hidden'
            )
        return self


class LevelConfig(Config):
    """Experts of one extraction level (in the paper, m_k own experts of task k and m_s shared experts)."""

    task_experts: TaskExpertCounts = Field(
        1, description="number of own experts of each task: one number for all tasks, or a table of numbers by task"
    )
    shared_experts: ExpertCount = Field(1, description="number of experts that every task reads")
    expert_hidden: Sizes = Field((128,), description="layer sizes of each expert; the last is its output width")

    def own_experts(self, task: str) -> int:
        """Return the number of own experts of a task."""
        return self.task_experts[task] if isinstance(self.task_experts, dict) else self.task_experts

    @model_validator(mode="after")
    def _every_output_reads_something(self) -> LevelConfig:
        counts = self.task_experts.values() if isinstance(self.task_experts, dict) else [self.task_experts]
        if self.shared_experts == 0 and min(counts, default=0) == 0:
            raise ValueError(
                "shared_experts = 0 and a task without own experts: it has nothing to read. Give it own experts, or "
                "set shared_experts to 1 or more"
            )
        return self


class PleConfig(_Variant):
    """Progressive layered extraction (Eq. 6-7): levels of CGC (Eq. 2-5), all but the top one with a shared output.

    If there are several levels, each needs shared experts.
    """

    variant: Literal["ple"]
    levels: Annotated[tuple[LevelConfig, ...], Field(min_length=1)] = Field(description="bottom level first")

    @model_validator(mode="after")
    def _every_level_has_shared_experts(self) -> PleConfig:
        for i, level in enumerate(self.levels):
            if len(self.levels) > 1 and level.shared_experts == 0:
                raise ValueError(f"levels[{i}].shared_experts = 0; in PLE of several levels, each needs shared experts")
        return self


class CgcConfig(_Variant, LevelConfig):
    """Customized gate control (Eq. 2-5): one level of own and shared experts."""

    variant: Literal["cgc"]


class MmoeConfig(_Variant):
    """Multi-gate mixture of experts: shared experts, one gate per task."""

    variant: Literal["mmoe"]
    experts: PositiveExpertCount = Field(description="number of shared experts")
    expert_hidden: Sizes = Field((128,), description="layer sizes of each expert; the last is its output width")


class HardSharingConfig(_Variant):
    """Hard parameter sharing: one bottom (a stack of layers), which every tower reads."""

    variant: Literal["hard_sharing"]
    bottom: Sizes = Field((256, 128), description="layer sizes of the shared bottom")


class SingleTaskConfig(_Variant):
    """Single-task: one bottom per task; only the embedding tables are shared."""

    variant: Literal["single_task"]
    bottom: Sizes = Field((256, 128), description="layer sizes of each task's bottom")


class AsymmetricConfig(_Variant):
    """Asymmetric sharing: one bottom per task; a task also reads the bottoms of its donors."""

    variant: Literal["asymmetric"]
    bottom: Sizes = Field((256, 128), description="layer sizes of each task's bottom")
    donors: Annotated[dict[Name, Annotated[tuple[Name, ...], Field(min_length=1)]], Field(min_length=1)] = Field(
        description='donors of each task: tasks whose bottoms it reads beside its own, e.g. { like = ["click"] }'
    )
    combine: Literal["concat", "sum", "mean"] = Field(
        "concat", description="operation that combines the bottoms of a task"
    )
    circular: bool = Field(
        False, description="true to allow tasks that are donors of each other, directly or in a circle"
    )

    @model_validator(mode="after")
    def _donors_are_valid(self) -> AsymmetricConfig:
        for task, donors in self.donors.items():
            if task in donors:
                raise ValueError(f"donors.{task}: names {task} itself, whose own bottom it always reads; drop it")
            if len(set(donors)) < len(donors):
                raise ValueError(f"donors.{task}: got {', '.join(donors)}; name every donor once")
        if not self.circular and (circle := _find_circle(self.donors)):
            raise ValueError(
                f"donors: {' reads '.join(circle)}, a circle; an asymmetric relation has a direction. Drop one of "
                "these, or allow it with circular = true"
            )
        return self


class CustomizedConfig(_Variant):
    """Customized sharing: one bottom per task and a shared one; a tower reads its own and the shared, concatenated."""

    variant: Literal["customized"]
    bottom: Sizes = Field((256, 128), description="layer sizes of each task's bottom and of the shared one")


class TaskExpertLevelConfig(Config):
    """Any level of cross-stitch or sluice: one expert per task."""

    expert_hidden: Sizes = Field((128,), description="layer sizes of each task's expert; the last is its output width")


class CrossStitchConfig(_Variant):
    """Cross-stitch: one expert per task and level; after each level a learned static mix over the tasks."""

    variant: Literal["cross_stitch"]
    levels: Annotated[tuple[TaskExpertLevelConfig, ...], Field(min_length=1)] = Field(description="bottom level first")
    per_channel: bool = Field(
        False, description="true for a weight per pair of tasks and channel, false for one per pair"
    )


class SluiceConfig(_Variant):
    """Sluice: cross-stitch over subspaces of experts, a learned mix of the levels, and an orthogonality penalty."""

    variant: Literal["sluice"]
    levels: Annotated[tuple[TaskExpertLevelConfig, ...], Field(min_length=1)] = Field(
        description="bottom level first, all of the same output width"
    )
    subspaces: PositiveInt = Field(2, description="G, parts of each expert's output; each part is mixed by itself")
    orthogonality: NonNegativeFloat | None = Field(
        None,
        description="lambda of the penalty that keeps an expert's subspaces apart; default: 0.01; 0 for one subspace",
    )

    @property
    def penalty_weight(self) -> float:
        """Weight lambda of the orthogonality penalty; 0 for a single subspace."""
        if self.subspaces == 1:
            return 0.0
        return 0.01 if self.orthogonality is None else self.orthogonality

    @model_validator(mode="after")
    def _widths_fit(self) -> SluiceConfig:
        widths = [level.expert_hidden[-1] for level in self.levels]
        if len(set(widths)) > 1:
            raise ValueError(
                f"levels have output widths {', '.join(map(str, widths))}; sluice mixes its levels, so these must be "
                "equal"
            )
        if widths[0] % self.subspaces:
            raise ValueError(f"subspaces = {self.subspaces} does not divide the levels' output width {widths[0]}")
        if self.subspaces == 1 and self.orthogonality:
            raise ValueError(
                f"orthogonality = {self.orthogonality} with subspaces = 1: there is nothing to keep apart. Drop it, or "
                "set more subspaces"
            )
        return self


class MlMmoeLevelConfig(Config):
    """Shared experts of one level."""

    experts: PositiveExpertCount = Field(description="number of shared experts")
    expert_hidden: Sizes = Field((128,), description="layer sizes of each expert; the last is its output width")


class MlMmoeConfig(_Variant):
    """Multi-level MMoE: each expert of a higher level, and each task on top, has a gate over all experts below."""

    variant: Literal["ml_mmoe"]
    levels: Annotated[tuple[MlMmoeLevelConfig, ...], Field(min_length=1)] = Field(description="bottom level first")


ModelConfig = Annotated[
    PleConfig
    | CgcConfig
    | MlMmoeConfig
    | MmoeConfig
    | SluiceConfig
    | CrossStitchConfig
    | CustomizedConfig
    | AsymmetricConfig
    | HardSharingConfig
    | SingleTaskConfig,
    Field(discriminator="variant"),
]


def _find_circle(donors: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the tasks of a circle of donors, the first one repeated at the end; empty if there is no circle."""
    circle_free: set[str] = set()  # Tasks from which no circle is reached, so that no path is followed twice.

    def circle_from(path: list[str]) -> list[str]:
        for donor in donors.get(path[-1], ()):
            if donor in path:
                return [*path[path.index(donor) :], donor]
            if donor not in circle_free and (circle := circle_from([*path, donor])):
                return circle
        circle_free.add(path[-1])
        return []

    return next((circle for task in donors if (circle := circle_from([task]))), [])
