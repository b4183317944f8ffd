"""Models of any variant and size, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from ple_rec.config.model import LevelConfig, ModelConfig
from tests.models.samples import TASKS

COUNTS = st.integers(0, 2)


@st.composite
def networks(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[LevelConfig, ...]]:
    tasks = TASKS[: draw(st.integers(1, 4))]
    depth = draw(st.integers(1, 3))
    return tasks, tuple(
        LevelConfig(
            task_experts={task: draw(COUNTS) for task in tasks},
            shared_experts=draw(st.integers(1, 3)),
            expert_hidden=tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))),
        )
        for _ in range(depth)
    )


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple)


@st.composite
def models(draw: st.DrawFn, name: str) -> tuple[tuple[str, ...], ModelConfig]:
    """Tasks, and a configuration for them of the variant and option that a name of `EVERY` says."""
    variant, _, option = name.partition(" ")
    tasks, levels = draw(networks())
    common: dict[str, Any] = {"variant": variant, "activation": "tanh", "tower": {"hidden": [3], "activation": "tanh"}}
    if variant == "asymmetric":
        tasks = TASKS[: draw(st.integers(2, 4))]
        donors = {task: draw(st.sampled_from([t for t in tasks if t != task])) for task in tasks[1:]}
        options = {"combine": option or "concat", "circular": True}
        common |= options | {"donors": {task: [donor] for task, donor in donors.items()}}
    fields = {
        "ple": {"levels": [level.model_dump() for level in levels]},
        "cgc": levels[0].model_dump(),
        "ml_mmoe": {"levels": [{"experts": draw(st.integers(1, 3)), "expert_hidden": draw(SIZES)} for _ in levels]},
        "mmoe": {"experts": draw(st.integers(1, 3)), "expert_hidden": draw(SIZES)},
        "sluice": {
            "levels": [{"expert_hidden": (*draw(SIZES), 4)} for _ in levels],
            "subspaces": draw(st.sampled_from([1, 2, 4])),
        },
        "cross_stitch": {
            "levels": [{"expert_hidden": draw(SIZES)} for _ in levels],
            "per_channel": bool(option),
        },
    }.get(variant, {"bottom": draw(SIZES)})
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python(common | fields, strict=False)
    return tasks, config
