"""Expert utilisation of a variant as one figure in files of its own: the paper's Fig. 8, a panel for each gate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ple_rec.analysis.utilisation import Gate
from ple_rec.reports.figures import save_figure
from ple_rec.reports.gate_bars import WIDTH, bars_height, draw_gate
from ple_rec.reports.svg import LIGHT, MUTED, themed

_ACROSS = 3  # panels side by side
_HEAD, _TITLE = 64, 30  # pixels above all panels, and above each


def limit_of(gates: Sequence[Gate]) -> float:
    """Return the right end of the axes of gates that stand together."""
    return 1.05 * max(min(1.0, expert.mean + expert.std) for gate in gates for expert in gate.experts)


def save_utilisation(variant: str, gates: Sequence[Gate], folder: Path) -> None:
    """Write `utilisation-<variant>.svg` and `.png`.

    Args:
        variant: Name of the variant.
        gates: Gates of the variant, one at least.
        folder: Folder of the files.
    """
    rows = rows_of(gates)
    heights = [_TITLE + max(bars_height(len(gate.experts)) for gate in row) for row in rows]
    across = max(len(row) for row in rows)
    with themed(_HEAD + sum(heights), WIDTH * across, LIGHT) as figure:
        grid = figure.add_gridspec(len(rows), across, height_ratios=heights)
        for r, row in enumerate(rows):
            for c, gate in enumerate(row):
                axes = figure.add_subplot(grid[r, c])
                draw_gate(axes, gate, limit_of(gates), lambda colour: LIGHT.get(colour, colour))
                axes.set_title(f"level {gate.level}, gate of {gate.output}", fontsize=11, loc="left")
        figure.suptitle(f"Expert utilisation of {variant}", fontsize=12, x=0.01, ha="left")
        words = "mean weight over the test split; line: standard deviation; hatched: shared"
        figure.supxlabel(words, fontsize=10, color=LIGHT[MUTED], x=0.01, ha="left")
        save_figure(figure, folder, f"utilisation-{variant}")


def rows_of(gates: Sequence[Gate]) -> list[list[Gate]]:
    """Return gates as they stand in the figure: a new row for each level, and where one is full."""
    rows = []
    for _, of_level in groupby(gates, key=lambda gate: gate.level):
        level = list(of_level)
        rows += [level[i : i + _ACROSS] for i in range(0, len(level), _ACROSS)]
    return rows
