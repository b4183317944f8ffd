"""Every model of the paper's Fig. 1 as routings of the one extraction network: who reads whom, level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ple_rec.config.model import (
    CgcConfig,
    HardSharingConfig,
    LevelConfig,
    MmoeConfig,
    PleConfig,
    SingleTaskConfig,
)
from ple_rec.errors import UserError
from ple_rec.modules.routing import Routing

SHARED = "shared"
Tasks = Sequence[str]


def cgc_level(tasks: Tasks, level: LevelConfig, *, first: bool, last: bool) -> Routing:
    """Own and shared experts (Eq. 2-7): output o reads expert e where they have one owner or either is shared.

    Args:
        tasks: Task names, in the order of the outputs.
        level: Numbers and sizes of the experts.
        first: The level reads x, its only stream; else one stream per task and one shared.
        last: The level has no shared output.

    Raises:
        UserError: a task is named as the shared experts are.
    """
    if SHARED in tasks:
        raise UserError(
            "tasks",
            f"a task is named {SHARED!r}",
            "experts are named after their owner, and the shared ones have that name",
            "rename the task in the dataset's recipe",
        )
    owners = [owner for owner in (*tasks, SHARED) for _ in range(_count(level, owner))]
    outputs = [*tasks] if last else [*tasks, SHARED]
    streams = {owner: 0 if first else i for i, owner in enumerate((*tasks, SHARED))}
    return Routing(
        experts=_number(owners),
        source_E=tuple(streams[owner] for owner in owners),
        outputs=tuple(outputs),
        reads_OE=tuple(tuple(e == o or SHARED in (e, o) for e in owners) for o in outputs),
        selector_O=tuple(streams[o] for o in outputs),
        hidden=level.expert_hidden,
    )


def ple(config: PleConfig, tasks: Tasks) -> list[Routing]:
    """Progressive layered extraction: CGC levels; the selector of a higher gate is its own stream (Eq. 7)."""
    last = len(config.levels) - 1
    return [cgc_level(tasks, level, first=i == 0, last=i == last) for i, level in enumerate(config.levels)]


def cgc(config: CgcConfig, tasks: Tasks) -> list[Routing]:
    """Customized gate control: PLE of one level."""
    return [cgc_level(tasks, config, first=True, last=True)]


def mmoe(config: MmoeConfig, tasks: Tasks) -> list[Routing]:
    """Multi-gate mixture of experts: CGC without own experts."""
    level = LevelConfig(task_experts=0, shared_experts=config.experts, expert_hidden=config.expert_hidden)
    return [cgc_level(tasks, level, first=True, last=True)]


def hard_sharing(config: HardSharingConfig, tasks: Tasks) -> list[Routing]:
    """Hard parameter sharing: one shared expert, read by all; a gate over one expert is no gate."""
    level = LevelConfig(task_experts=0, shared_experts=1, expert_hidden=config.bottom)
    return [cgc_level(tasks, level, first=True, last=True)]


def single_task(config: SingleTaskConfig, tasks: Tasks) -> list[Routing]:
    """Single-task: one own expert per task and no other reader."""
    level = LevelConfig(task_experts=1, shared_experts=0, expert_hidden=config.bottom)
    return [cgc_level(tasks, level, first=True, last=True)]


VARIANTS: dict[str, Callable[[Any, Tasks], list[Routing]]] = {
    "ple": ple,
    "cgc": cgc,
    "mmoe": mmoe,
    "hard_sharing": hard_sharing,
    "single_task": single_task,
}


def _count(level: LevelConfig, owner: str) -> int:
    return level.shared_experts if owner == SHARED else level.own(owner)


def _number(owners: Sequence[str]) -> tuple[str, ...]:
    """`owner.index` of each expert, counting per owner."""
    return tuple(f"{owner}.{owners[:i].count(owner)}" for i, owner in enumerate(owners))
