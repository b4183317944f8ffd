"""Every model of Fig. 1 of the PLE paper (Tang et al., 2020) as routings of the extraction network, one for each level.

Equation numbers are those of the paper.

`VARIANTS` has a function for each value of `model.variant`. It takes the configuration of the variant and the names of
the tasks, and returns a `Routing` for each level. The owner of an expert is a task, or "shared"; a stream is an input
of a level, that is x on the first level, else an output of the level below.
"""

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
from ple_rec.modules.routing import SELECT_BY_X, Routing

SHARED = "shared"
Tasks = Sequence[str]


def cgc_level(tasks: Tasks, level: LevelConfig, *, first: bool, last: bool) -> Routing:
    """Return a level of task-specific and shared experts (Eq. 2-7).

    The output of a task reads the task's own experts and the shared experts. The shared output reads all experts.

    Args:
        tasks: Names of the tasks, in the order of the outputs.
        level: Numbers and sizes of the experts.
        first: True if the level reads x as its only stream, False if it reads one stream per task and a shared one.
        last: True if no level follows, so that the level has no shared output.

    Raises:
        UserError: A task has the name of the shared experts.
    """
    _check_names(tasks)
    owners = [owner for owner in (*tasks, SHARED) for _ in range(_count_experts(level, owner))]
    outputs = [*tasks] if last else [*tasks, SHARED]
    streams = {owner: 0 if first else i for i, owner in enumerate((*tasks, SHARED))}
    return Routing(
        experts=_name_experts(owners),
        source_E=tuple(streams[owner] for owner in owners),
        outputs=tuple(outputs),
        edges_OE=tuple(tuple(e == o or SHARED in (e, o) for e in owners) for o in outputs),
        selector_O=tuple(streams[o] for o in outputs),
        hidden=level.expert_hidden,
    )


def ple(config: PleConfig, tasks: Tasks) -> list[Routing]:
    """Return progressive layered extraction: CGC levels; above the first, a gate reads its output's stream (Eq. 7)."""
    last = len(config.levels) - 1
    return [cgc_level(tasks, level, first=i == 0, last=i == last) for i, level in enumerate(config.levels)]


def cgc(config: CgcConfig, tasks: Tasks) -> list[Routing]:
    """Return customized gate control, which is PLE of one level."""
    return [cgc_level(tasks, config, first=True, last=True)]


def mmoe(config: MmoeConfig, tasks: Tasks) -> list[Routing]:
    """Return the multi-gate mixture of experts, which is CGC without task-specific experts."""
    level = LevelConfig(task_experts=0, shared_experts=config.experts, expert_hidden=config.expert_hidden)
    return [cgc_level(tasks, level, first=True, last=True)]


def hard_sharing(config: HardSharingConfig, tasks: Tasks) -> list[Routing]:
    """Return hard parameter sharing: one shared expert that all tasks read, without gates."""
    level = LevelConfig(task_experts=0, shared_experts=1, expert_hidden=config.bottom)
    return [cgc_level(tasks, level, first=True, last=True)]


def single_task(config: SingleTaskConfig, tasks: Tasks) -> list[Routing]:
    """Return single-task models: one expert per task, which no other task reads."""
    level = LevelConfig(task_experts=1, shared_experts=0, expert_hidden=config.bottom)
    return [cgc_level(tasks, level, first=True, last=True)]


def asymmetric(config: AsymmetricConfig, tasks: Tasks) -> list[Routing]:
    """Return asymmetric sharing: a task reads its own expert and those of its donors, combined without gates."""
    routing = _one_expert_per_task(tasks, config.bottom, first=True)
    edges_OE = [[e == o or e in config.donors.get(o, ()) for e in tasks] for o in tasks]
    return [replace(routing, edges_OE=tuple(map(tuple, edges_OE)), mixing=config.combine)]


def customized(config: CustomizedConfig, tasks: Tasks) -> list[Routing]:
    """Return customized sharing: CGC of one task-specific and one shared expert, concatenated instead of gated."""
    level = LevelConfig(task_experts=1, shared_experts=1, expert_hidden=config.bottom)
    return [replace(cgc_level(tasks, level, first=True, last=True), mixing="concat")]


def cross_stitch(config: CrossStitchConfig, tasks: Tasks) -> list[Routing]:
    """Return cross-stitch: one expert per task, which all tasks read, by learned weights equal for all samples."""
    mixing = "stitch_channels" if config.per_channel else "stitch"
    return [
        replace(_with_all_edges(_one_expert_per_task(tasks, level.expert_hidden, first=i == 0)), mixing=mixing)
        for i, level in enumerate(config.levels)
    ]


def sluice(config: SluiceConfig, tasks: Tasks) -> list[Routing]:
    """Return sluice networks: cross-stitch between subspaces of experts; with several levels, towers read a mix of all.

    The weights of the subspaces have a penalty, see `ExpertBank.orthogonality`.
    """
    last = len(config.levels) - 1
    return [
        replace(
            _with_all_edges(_one_expert_per_task(tasks, level.expert_hidden, first=i == 0)),
            mixing="subspaces",
            subspaces=config.subspaces,
            orthogonality=config.penalty_weight,
            mix_levels=0 < i == last,
        )
        for i, level in enumerate(config.levels)
    ]


def ml_mmoe(config: MlMmoeConfig, tasks: Tasks) -> list[Routing]:
    """Return multi-level MMoE: one gate per expert of the next level, or per task on the last. All gates read x."""
    _check_names(tasks)
    names = [_name_experts([SHARED] * level.experts) for level in config.levels]
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
                selector_O=(SELECT_BY_X,) * len(outputs),
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


def _one_expert_per_task(tasks: Tasks, hidden: Sequence[int], *, first: bool) -> Routing:
    """Return a level of one expert per task, which only the output of its task reads."""
    k = len(tasks)
    return Routing(
        experts=_name_experts(tasks),
        source_E=(0,) * k if first else tuple(range(k)),
        outputs=tuple(tasks),
        edges_OE=tuple(tuple(e == o for e in range(k)) for o in range(k)),
        selector_O=(0,) * k if first else tuple(range(k)),
        hidden=tuple(hidden),
    )


def _with_all_edges(routing: Routing) -> Routing:
    """Return the routing with an edge from every expert to every output."""
    return replace(routing, edges_OE=((True,) * len(routing.experts),) * len(routing.outputs))


def _check_names(tasks: Tasks) -> None:
    if SHARED in tasks:
        raise UserError(
            "tasks",
            f"a task is named {SHARED!r}",
            "experts are named after their task, and shared experts have this name",
            "rename the task in the dataset's recipe",
        )


def _count_experts(level: LevelConfig, owner: str) -> int:
    return level.shared_experts if owner == SHARED else level.own_experts(owner)


def _name_experts(owners: Sequence[str]) -> tuple[str, ...]:
    """Return the name `owner.index` of each expert, with indices that count the experts of an owner."""
    return tuple(f"{owner}.{owners[:i].count(owner)}" for i, owner in enumerate(owners))
