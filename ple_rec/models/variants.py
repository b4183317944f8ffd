"""Every model of the paper's Fig. 1 as routings of the one extraction network: who reads whom, level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ple_rec.config.model import (
    AsymmetricConfig,
    CgcConfig,
    CrossStitchConfig,
    CustomizedConfig,
    HardSharingConfig,
    LevelConfig,
    MlMmoeConfig,
    MmoeConfig,
    PleConfig,
    SingleTaskConfig,
    SluiceConfig,
)
from ple_rec.errors import UserError
from ple_rec.modules.routing import Routing, X

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
    _refuse_shared(tasks)
    owners = [owner for owner in (*tasks, SHARED) for _ in range(_count(level, owner))]
    outputs = [*tasks] if last else [*tasks, SHARED]
    streams = {owner: 0 if first else i for i, owner in enumerate((*tasks, SHARED))}
    return Routing(
        experts=_number(owners),
        source_E=tuple(streams[owner] for owner in owners),
        outputs=tuple(outputs),
        edges_OE=tuple(tuple(e == o or SHARED in (e, o) for e in owners) for o in outputs),
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


def asymmetric(config: AsymmetricConfig, tasks: Tasks) -> list[Routing]:
    """Asymmetric sharing: a task reads its own bottom and its donors', put together as they are."""
    own = _bottoms(tasks, config.bottom, first=True)
    reads = [[e == o or e in config.donors.get(o, ()) for e in tasks] for o in tasks]
    return [replace(own, edges_OE=tuple(map(tuple, reads)), mixing=config.combine)]


def customized(config: CustomizedConfig, tasks: Tasks) -> list[Routing]:
    """Customized sharing: CGC of one own and one shared expert, concatenated instead of gated."""
    level = LevelConfig(task_experts=1, shared_experts=1, expert_hidden=config.bottom)
    return [replace(cgc_level(tasks, level, first=True, last=True), mixing="concat")]


def cross_stitch(config: CrossStitchConfig, tasks: Tasks) -> list[Routing]:
    """Cross-stitch: one expert per task, every task reads all, A learned and the same for every sample."""
    mixing = "stitch_channels" if config.per_channel else "stitch"
    return [
        replace(_everyone(_bottoms(tasks, level.expert_hidden, first=i == 0)), mixing=mixing)
        for i, level in enumerate(config.levels)
    ]


def sluice(config: SluiceConfig, tasks: Tasks) -> list[Routing]:
    """Sluice: cross-stitch between subspaces; the towers read a mix of the levels."""
    last = len(config.levels) - 1
    return [
        replace(
            _everyone(_bottoms(tasks, level.expert_hidden, first=i == 0)),
            mixing="subspaces",
            subspaces=config.subspaces,
            orthogonality=config.penalty,
            mix_levels=0 < i == last,
        )
        for i, level in enumerate(config.levels)
    ]


def ml_mmoe(config: MlMmoeConfig, tasks: Tasks) -> list[Routing]:
    """Multi-level MMoE: a gate per expert of the next level, per task on the last, all selecting by x itself."""
    _refuse_shared(tasks)
    names = [_number([SHARED] * level.experts) for level in config.levels]
    routings = []
    for i, (level, experts) in enumerate(zip(config.levels, names, strict=True)):
        above = names[i + 1] if i + 1 < len(names) else ()
        outputs = tuple(f"level {i + 2} {name}" for name in above) or tuple(tasks)
        routings.append(
            Routing(
                experts=experts,
                source_E=tuple(range(len(experts))) if i else (0,) * len(experts),
                outputs=outputs,
                edges_OE=((True,) * len(experts),) * len(outputs),
                selector_O=(X,) * len(outputs),
                hidden=level.expert_hidden,
            )
        )
    return routings


VARIANTS: dict[str, Callable[[Any, Tasks], list[Routing]]] = {
    "ple": ple,
    "cgc": cgc,
    "ml_mmoe": ml_mmoe,
    "mmoe": mmoe,
    "sluice": sluice,
    "cross_stitch": cross_stitch,
    "customized": customized,
    "asymmetric": asymmetric,
    "hard_sharing": hard_sharing,
    "single_task": single_task,
}


def _bottoms(tasks: Tasks, hidden: Sequence[int], *, first: bool) -> Routing:
    """One own expert per task; above the first level it reads its task's stream."""
    k = len(tasks)
    return Routing(
        experts=_number(tasks),
        source_E=(0,) * k if first else tuple(range(k)),
        outputs=tuple(tasks),
        edges_OE=tuple(tuple(e == o for e in range(k)) for o in range(k)),
        selector_O=(0,) * k if first else tuple(range(k)),
        hidden=tuple(hidden),
    )


def _everyone(routing: Routing) -> Routing:
    """Every output reads every expert."""
    return replace(routing, edges_OE=((True,) * len(routing.experts),) * len(routing.outputs))


def _refuse_shared(tasks: Tasks) -> None:
    if SHARED in tasks:
        raise UserError(
            "tasks",
            f"a task is named {SHARED!r}",
            "experts are named after their owner, and the shared ones have that name",
            "rename the task in the dataset's recipe",
        )


def _count(level: LevelConfig, owner: str) -> int:
    return level.shared_experts if owner == SHARED else level.own(owner)


def _number(owners: Sequence[str]) -> tuple[str, ...]:
    """`owner.index` of each expert, counting per owner."""
    return tuple(f"{owner}.{owners[:i].count(owner)}" for i, owner in enumerate(owners))
