"""Section on the matrix A: for each level of the model, the weight of every expert in every output, as a heat map.

An output of a level is a weighted sum of its experts: one output for each task, and one for the shared part of the next
level. In most variants a softmax gate computes the weights; `_MIXINGS` describes the others. `gates` returns the view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.reports.cells import true_minus
from ple_rec.runs.metrics import GateLevel
from ple_rec.runs.read import RunFiles

# The heat map of a level with more experts is cut into blocks of columns, one below the other.
_BLOCK_SIZE = 16
# With more experts, cells are small and have no bars.
_MAX_LARGE_CELLS = 12
# More cells than this are folded away.
_MANY_CELLS = 1500

# Description of A for each `mixing` in metrics.json. An unknown one, of another version, is described like softmax.
_GATED = "Weights of a softmax gate: mean over the evaluated samples, \u00b1 standard deviation."
_MIXINGS = {
    "softmax": _GATED,
    "concat": "Constant: each output is its experts side by side, every one as it is (weight 1).",
    "sum": "Constant: each output is the sum of its experts (weight 1).",
    "mean": "Constant: each output is the mean of its n experts (weight 1/n).",
    "stitch": "Learned weights, the same for every sample; they may be negative.",
    "stitch_channels": "Learned weights per channel, the same for every sample; shown is the mean over channels.",
    "subspaces": "Learned weights over subspaces, numbered in [], the same for every sample; they may be negative.",
    "levels": "Learned weights with which each task mixes the levels' outputs, the same for every sample.",
}
# Mixings with constant weights, of which the page lists the experts instead of a heat map.
_FIXED = ("concat", "sum", "mean")


@dataclass(frozen=True)
class _Weights:
    """A of one level.

    Args:
        outputs: Names of the outputs.
        experts: Names of the experts.
        mean: Means, (outputs, experts); None if an output does not read an expert.
        std: Standard deviations, (outputs, experts); None if an output does not read an expert.
        full_colour_weight: Weight that has the full colour.
        is_constant: True if no weight is recorded to differ between samples.
    """

    outputs: list[str]
    experts: list[str]
    mean: list[list[float | None]]
    std: list[list[float | None]]
    full_colour_weight: float
    is_constant: bool

    @property
    def has_small_cells(self) -> bool:
        """True if cells have two decimals and no bars."""
        return len(self.experts) > _MAX_LARGE_CELLS

    def reads_any(self, output: int, columns: range) -> bool:
        """Return True if an output reads at least one of the experts in some columns."""
        return any(self.mean[output][column] is not None for column in columns)


def gates(run: RunFiles) -> dict[str, Any]:
    """Return a heat map and a description of A for each level; a description that fits all levels is above them.

    In the view, `levels` is None without recorded weights, and empty for a model without gates.
    """
    recorded = run.evaluation_part("gates")[1]
    if not isinstance(recorded, list):
        return {"words": "", "levels": None}
    levels = [(gate, _weights(gate)) for gate in GateLevel.read_all(recorded)]
    descriptions = [_description(gate.mixing, level) for gate, level in levels]
    are_equal = len(set(descriptions)) == 1
    level_views = [
        _level_view(gate, level, "" if are_equal else text)
        for (gate, level), text in zip(levels, descriptions, strict=True)
    ]
    return {"words": descriptions[0] if are_equal else "", "levels": level_views}


def _level_view(gate: GateLevel, level: _Weights, words: str) -> dict[str, Any]:
    named = bool(level.outputs and level.experts)
    fixed = named and gate.mixing in _FIXED
    blocks = _split_into_blocks(level.experts) if named and not fixed else []
    rows = range(len(level.outputs))
    rows_by_block = [[row for row in rows if len(blocks) == 1 or level.reads_any(row, block)] for block in blocks]
    cells = sum(len(block) * len(own) for block, own in zip(blocks, rows_by_block, strict=True))
    negative = any(value < 0 for row in level.mean for value in row if value is not None)
    return {
        "heading": "Mix of levels" if gate.mixing == "levels" else f"Level {gate.level}",
        "words": words,
        "readers": [(name, _experts_read(level, row)) for row, name in enumerate(level.outputs)] if fixed else [],
        "low": true_minus(f"-{level.full_colour_weight:g}") if negative else "0",
        "high": f"{level.full_colour_weight:g}",
        "negative": negative,
        "has_small_cells": level.has_small_cells,
        "blocks": [_block_view(level, block, own) for block, own in zip(blocks, rows_by_block, strict=True)],
        "folded": f"{len(level.outputs)} outputs over {len(level.experts)} experts" if cells > _MANY_CELLS else "",
    }


def _description(mixing: str, level: _Weights) -> str:
    words = _MIXINGS.get(mixing, _GATED)
    if mixing in _FIXED:
        return words
    if not level.is_constant and not level.has_small_cells:
        words += " The bar in a cell is the mean, the line at its end the deviation, both on the scale of the colours."
    if any(value is None for row in level.mean for value in row):
        words += " Blank: not read."
    if len(level.experts) > _BLOCK_SIZE:
        words += " Many experts stand in blocks, each with the outputs that read any of its experts."
    return words


def _weights(gate: GateLevel) -> _Weights:
    outputs, experts = gate.outputs, gate.experts
    mean, std = (
        [[_matrix_element(rows, row, column) for column in range(len(experts))] for row in range(len(outputs))]
        for rows in (gate.mean, gate.std)
    )
    greatest = max((abs(value) for row in mean for value in row if value is not None), default=1.0)
    is_constant = not any(value for row in std for value in row)
    return _Weights(outputs, experts, mean, std, _full_colour(greatest), is_constant)


def _matrix_element(rows: list[list[float | None]], row: int, column: int) -> float | None:
    """Return a weight of a matrix; None if the matrix is damaged and has no such element."""
    values = rows[row] if row < len(rows) else []
    return values[column] if column < len(values) else None


def _full_colour(greatest: float) -> float:
    """Return the first of 1, 1.5, 2, 3, 5, 10 times a power of ten that `greatest` does not exceed; 1 for 0."""
    if not greatest:
        return 1.0
    power = 10.0 ** math.floor(math.log10(greatest))
    return next(step * power for step in (1, 1.5, 2, 3, 5, 10) if step * power >= greatest * (1 - 1e-9))


def _experts_read(level: _Weights, row: int) -> str:
    return ", ".join(name for name, value in zip(level.experts, level.mean[row], strict=True) if value is not None)


def _split_into_blocks(experts: Sequence[str]) -> list[range]:
    """Return ranges of at most `_BLOCK_SIZE` experts; experts with one `_owner` are in one range if they fit."""
    blocks = [range(0)]
    for size in (size for _, size in _equal_neighbours([_owner(name) for name in experts])):
        while size:
            last = blocks[-1]
            part = min(size, _BLOCK_SIZE)
            if len(last) + part > _BLOCK_SIZE:
                blocks.append(range(last.stop, last.stop))
                last = blocks[-1]
            blocks[-1] = range(last.start, last.stop + part)
            size -= part
    return [block for block in blocks if block]


def _owner(name: str) -> str:
    """Return the task, or the shared part, that an expert belongs to: `ctr` for `ctr.0`."""
    return name.rpartition(".")[0] or name


def _equal_neighbours(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return each sequence of equal names in a row as the name and its number of repetitions."""
    repeated: list[tuple[str, int]] = []
    for name in names:
        if repeated and repeated[-1][0] == name:
            repeated[-1] = (name, repeated[-1][1] + 1)
        else:
            repeated.append((name, 1))
    return repeated


def _block_view(level: _Weights, columns: range, rows: Sequence[int]) -> dict[str, Any]:
    names = [level.experts[column] for column in columns]
    owners = _equal_neighbours([_owner(name) for name in names])
    return {
        "owners": owners,
        "experts": [(name, name.rpartition(".")[2]) for name in names],
        "numbered": len(owners) < len(names),
        "rows": [(level.outputs[row], [_cell_view(level, row, column) for column in columns]) for row in rows],
    }


def _cell_view(level: _Weights, row: int, column: int) -> dict[str, Any]:
    """Return the cell of a weight: texts of mean and deviation, share of the full colour, and the bar, in percent."""
    output, expert = level.outputs[row], level.experts[column]
    mean, std = level.mean[row][column], level.std[row][column]
    digits = 2 if level.has_small_cells else 3
    if mean is None:
        return {"title": f"{output} does not read {expert}", "mean": ""}
    share = f"{100 * min(abs(mean) / level.full_colour_weight, 1.0):.1f}"
    cell = {"mean": _weight_text(mean, digits), "std": "", "share": share, "bar": None, "negative": mean < 0}
    if std is None or level.is_constant:
        return cell | {"title": f"{output} reads {expert}: {mean:.4f}"}
    title = f"{output} reads {expert}: mean {mean:.4f}, standard deviation {std:.4f}"
    low, high = (min(max((abs(mean) + side * std) / level.full_colour_weight, 0.0), 1.0) for side in (-1, 1))
    bar = None if level.has_small_cells else (f"{100 * low:.1f}", f"{100 * (high - low):.1f}")
    return cell | {"title": title, "std": _weight_text(std, digits), "bar": bar}


def _weight_text(value: float, digits: int) -> str:
    """Return `0.123`, or `.12` with two digits, with a true minus sign. A value that rounds to 0 has no sign."""
    text = f"{abs(value):.{digits}f}"
    text = text.removeprefix("0") if digits < 3 and abs(value) < 1 and text.startswith("0.") else text
    return f"\u2212{text}" if value < 0 and float(text) else text
