"""Draw docs/figures/<variant>.svg, each from the routings that the program runs: python docs/figures/models.py [DIR].

A picture begins at the bottom with x and ends with the towers. Each level has experts (boxes; a split box is an expert
of two subspaces) and above them their mixings: circles are softmax gates, whose selectors are dashed; squares are a
concatenation || or learned scalars alpha. Each task has a colour, and shared parts are grey.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ple_rec.config.model import (
    AsymmetricConfig,
    CgcConfig,
    CrossStitchConfig,
    CustomizedConfig,
    HardSharingConfig,
    LevelConfig,
    MlMmoeConfig,
    MlMmoeLevelConfig,
    MmoeConfig,
    PleConfig,
    SingleTaskConfig,
    SluiceConfig,
    TaskExpertLevelConfig,
)
from ple_rec.models.variants import SHARED, VARIANTS
from ple_rec.modules.routing import SELECT_BY_X, Routing

TASKS = ("a", "b")
BOTTOMS = (TaskExpertLevelConfig(), TaskExpertLevelConfig())
MODELS = (
    SingleTaskConfig(variant="single_task"),
    HardSharingConfig(variant="hard_sharing"),
    AsymmetricConfig(variant="asymmetric", donors={"b": ("a",)}),
    CustomizedConfig(variant="customized"),
    CrossStitchConfig(variant="cross_stitch", levels=BOTTOMS),
    SluiceConfig(variant="sluice", levels=BOTTOMS),
    MmoeConfig(variant="mmoe", experts=3),
    MlMmoeConfig(variant="ml_mmoe", levels=(MlMmoeLevelConfig(experts=3), MlMmoeLevelConfig(experts=3))),
    CgcConfig(variant="cgc", task_experts=2, shared_experts=2),
    PleConfig(variant="ple", levels=(LevelConfig(), LevelConfig())),
)
WIDTH, ROW, MARGIN, BOX, HALF = 420, 62, 26, 22, 11
LABELS = {"softmax": "", "concat": "||", "sum": "+", "mean": "+", "stitch": "&#945;", "subspaces": "&#945;"}
STYLE = """
  text { font: 12px ui-sans-serif, system-ui, sans-serif; text-anchor: middle; fill: #1c2430; }
  .a { --c: #2563a8; } .b { --c: #b3541e; } .shared { --c: #6b7280; }
  .node { fill: #ffffff; stroke: var(--c); stroke-width: 1.8; }
  .expert { fill: var(--c); fill-opacity: .16; }
  .edge { fill: none; stroke: var(--c); stroke-width: 1.4; opacity: .75; }
  .selector { stroke-dasharray: 2 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e9ef; } .a { --c: #7db4f0; } .b { --c: #f0a06c; } .shared { --c: #a3abb8; }
    .node { fill: #14181f; } .expert { fill: var(--c); }
  }"""


@dataclass(frozen=True)
class Node:
    """Place in the picture and its owner, a task or `shared`."""

    x: float
    y: float
    owner: str


def spread(names: Sequence[str], y: float) -> list[Node]:
    """Return a node for each `owner.index`, side by side: the first task, the shared nodes, the other tasks."""
    owners = [SHARED if SHARED in name else name.split(".")[0] for name in names]
    rank = {TASKS[0]: 0, SHARED: 1, TASKS[1]: 2}
    order = sorted(range(len(names)), key=lambda i: (rank[owners[i]], i))
    place = {i: (slot + 0.5) / len(names) for slot, i in enumerate(order)}
    return [Node(MARGIN + (WIDTH - 2 * MARGIN) * place[i], y, owners[i]) for i in range(len(names))]


def edge(low: Node, high: Node, owner: str, extra: str = "", bow: float = 0.0) -> str:
    """Return a curve from the top of one node to the bottom of another, bent aside by `bow`."""
    y1, y2 = low.y - HALF, high.y + HALF
    middle = (y1 + y2) / 2
    a, b = low.x + bow, high.x + bow
    path = f"M{low.x:.1f} {y1:.1f}C{a:.1f} {middle:.1f} {b:.1f} {middle:.1f} {high.x:.1f} {y2:.1f}"
    return f'<path class="edge {owner} {extra}" d="{path}"/>'


def box(node: Node, label: str, kind: str = "") -> str:
    """Return a rounded square with its label."""
    corner = f'x="{node.x - HALF:.1f}" y="{node.y - HALF:.1f}" width="{BOX}" height="{BOX}" rx="4"'
    return f'<rect class="node {node.owner} {kind}" {corner}/>{text(node, label)}'


def line(node: Node) -> str:
    """Return a vertical line through a node: an output that passes its input on, or the border of two subspaces."""
    return f'<path class="edge {node.owner}" d="M{node.x:.1f} {node.y - HALF:.1f}v{BOX}"/>'


def circle(node: Node) -> str:
    """Return the circle of a softmax gate."""
    return f'<circle class="node {node.owner}" cx="{node.x:.1f}" cy="{node.y:.1f}" r="{HALF - 1}"/>{text(node, "g")}'


def text(node: Node, label: str) -> str:
    """Return a label centred on a node."""
    return f'<text x="{node.x:.1f}" y="{node.y + 4:.1f}">{label}</text>' if label else ""


def draw(routings: Sequence[Routing]) -> str:
    """Return the picture of a model's levels."""
    height = 2 * MARGIN + ROW * (2 * len(routings) + 1)
    y = height - MARGIN
    streams = [Node(WIDTH / 2, y, SHARED)]
    edges, nodes, below = [], [box(streams[0], "x")], []
    for level, routing in enumerate(routings):
        experts, outputs = spread(routing.experts, y - ROW), spread(routing.outputs, y - 2 * ROW)
        y -= 2 * ROW
        for e, expert in enumerate(experts):
            edges.append(edge(streams[routing.source_E[e]], expert, expert.owner))
            parts = routing.subspaces > 1
            nodes.append(box(expert, "" if parts else "E", "expert") + (line(expert) if parts else ""))
        for o, output in enumerate(outputs):
            read = [e for e in range(len(experts)) if routing.edges_OE[o][e]]
            edges += [edge(experts[e], output, output.owner) for e in read]
            gated = routing.mixing == "softmax" and len(read) > 1
            if gated and level and routing.selector_O[o] != SELECT_BY_X:
                edges.append(edge(streams[routing.selector_O[o]], output, output.owner, "selector"))
            elif gated:
                stub = f"M{output.x + HALF - 1:.1f} {output.y:.1f}h14"
                edges.append(f'<path class="edge {output.owner} selector" d="{stub}"/>')
                nodes.append(text(Node(output.x + HALF + 20, output.y, output.owner), "x"))
            mixed = line(output) if len(read) == 1 else box(output, LABELS[routing.mixing])
            nodes.append(circle(output) if gated else mixed)
        below.append(outputs)
        streams = outputs
    towers = spread(TASKS, y - ROW)
    for k, tower in enumerate(towers):
        edges.append(edge(streams[k], tower, tower.owner))
        if routings[-1].mix_levels:
            aside = 70 if tower.x > WIDTH / 2 else -70
            edges += [edge(outputs[k], tower, tower.owner, bow=aside) for outputs in below[:-1]]
        nodes.append(box(tower, TASKS[k].upper()))
    content = "\n".join([*edges, *nodes])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"\n<style>{STYLE}\n</style>\n{content}\n</svg>\n"
    )


def main(folder: Path) -> None:
    """Write every picture."""
    for model in MODELS:
        picture = draw(VARIANTS[model.variant](model, TASKS))
        (folder / f"{model.variant}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
