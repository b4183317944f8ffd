"""Section on A, the weights with which every level's outputs mix its experts, as a heat map per level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.reports.cells import true_minus
from ple_rec.runs.metrics import GateLevel
from ple_rec.runs.read import RunFiles

# A level with more experts is cut into blocks below each other.
_BLOCK = 16
# Up to so many experts, cells are large and have bars.
_LARGE = 12
# More cells than this are folded away.
_MANY_CELLS = 1500

# Description of A for each mixing. An unknown mixing is described like softmax.
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
_FIXED = ("concat", "sum", "mean")


@dataclass(frozen=True)
class _Weights:
    """A of one level.

    Args:
        outputs: Names of the outputs.
        experts: Names of the experts.
        mean: Means (O, E); None if an output does not read an expert.
        std: Standard deviations (O, E); None if an output does not read an expert.
        full: Weight that has the full colour.
        constant: True if the weights are the same for all samples.
    """

    outputs: list[str]
    experts: list[str]
    mean: list[list[float | None]]
    std: list[list[float | None]]
    full: float
    constant: bool

    @property
    def dense(self) -> bool:
        """Flag that cells are small, with two decimals and no bars."""
        return len(self.experts) > _LARGE

    def reads(self, output: int, columns: range) -> bool:
        return any(self.mean[output][column] is not None for column in columns)


def gates(run: RunFiles) -> dict[str, Any]:
    """Return a description and a heat map of A for each level; a description that all levels share is given once."""
    recorded = run.evaluation_part("gates")[1]
    if not isinstance(recorded, list):
        return {"words": "", "levels": None}
    levels = [(gate, _weights(gate)) for gate in GateLevel.read_all(recorded)]
    words = [_words(gate.mixing, level) for gate, level in levels]
    shared = len(set(words)) == 1
    shown = [_level(gate, level, "" if shared else own) for (gate, level), own in zip(levels, words, strict=True)]
    return {"words": words[0] if shared else "", "levels": shown}


def _level(gate: GateLevel, level: _Weights, words: str) -> dict[str, Any]:
    named = bool(level.outputs and level.experts)
    fixed = named and gate.mixing in _FIXED
    columns = _cut(level.experts) if named and not fixed else []
    rows = range(len(level.outputs))
    shown = [[row for row in rows if len(columns) == 1 or level.reads(row, block)] for block in columns]
    cells = sum(len(block) * len(own) for block, own in zip(columns, shown, strict=True))
    negative = any(value < 0 for row in level.mean for value in row if value is not None)
    return {
        "heading": "Mix of levels" if gate.mixing == "levels" else f"Level {gate.level}",
        "words": words,
        "readers": [(name, _readers(level, row)) for row, name in enumerate(level.outputs)] if fixed else [],
        "low": true_minus(f"-{level.full:g}") if negative else "0",
        "high": f"{level.full:g}",
        "negative": negative,
        "dense": level.dense,
        "blocks": [_block(level, block, own) for block, own in zip(columns, shown, strict=True)],
        "folded": f"{len(level.outputs)} outputs over {len(level.experts)} experts" if cells > _MANY_CELLS else "",
    }


def _words(mixing: str, level: _Weights) -> str:
    words = _MIXINGS.get(mixing, _GATED)
    if mixing in _FIXED:
        return words
    if not level.constant and not level.dense:
        words += " The bar in a cell is the mean, the line at its end the deviation, both on the scale of the colours."
    if any(value is None for row in level.mean for value in row):
        words += " Blank: not read."
    if len(level.experts) > _BLOCK:
        words += " Many experts stand in blocks, each with the outputs that read any of its experts."
    return words


def _weights(gate: GateLevel) -> _Weights:
    outputs, experts = gate.outputs, gate.experts
    mean, std = (
        [[_entry(rows, row, column) for column in range(len(experts))] for row in range(len(outputs))]
        for rows in (gate.mean, gate.std)
    )
    greatest = max((abs(value) for row in mean for value in row if value is not None), default=1.0)
    constant = not any(value for row in std for value in row)
    return _Weights(outputs, experts, mean, std, _full_colour(greatest), constant)


def _entry(rows: list[list[float | None]], row: int, column: int) -> float | None:
    """Return a weight of a matrix; None if the matrix is damaged and has no such element."""
    values = rows[row] if row < len(rows) else []
    return values[column] if column < len(values) else None


def _full_colour(greatest: float) -> float:
    """Return the first of 1, 1.5, 2, 3, 5, 10 times a power of ten that `greatest` does not exceed; 1 for 0."""
    if not greatest:
        return 1.0
    power = 10.0 ** math.floor(math.log10(greatest))
    return next(step * power for step in (1, 1.5, 2, 3, 5, 10) if step * power >= greatest * (1 - 1e-9))


def _readers(level: _Weights, row: int) -> str:
    return ", ".join(name for name, value in zip(level.experts, level.mean[row], strict=True) if value is not None)


def _cut(experts: Sequence[str]) -> list[range]:
    """Return ranges of at most `_BLOCK` experts; experts of one owner are in one range if they fit."""
    blocks = [range(0)]
    for size in (size for _, size in _runs([_owner(name) for name in experts])):
        while size:
            last = blocks[-1]
            part = min(size, _BLOCK)
            if len(last) + part > _BLOCK:
                blocks.append(range(last.stop, last.stop))
                last = blocks[-1]
            blocks[-1] = range(last.start, last.stop + part)
            size -= part
    return [block for block in blocks if block]


def _owner(name: str) -> str:
    return name.rpartition(".")[0] or name


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return neighbouring equal names with the length of each run."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs


def _block(level: _Weights, columns: range, rows: Sequence[int]) -> dict[str, Any]:
    names = [level.experts[column] for column in columns]
    owners = _runs([_owner(name) for name in names])
    return {
        "owners": owners,
        "experts": [(name, name.rpartition(".")[2]) for name in names],
        "numbered": len(owners) < len(names),
        "rows": [(level.outputs[row], [_cell(level, row, column) for column in columns]) for row in rows],
    }


def _cell(level: _Weights, row: int, column: int) -> dict[str, Any]:
    """Return the cell of a weight: its share of the full colour, its deviation, and the bar of both, in percent."""
    output, expert = level.outputs[row], level.experts[column]
    mean, std = level.mean[row][column], level.std[row][column]
    digits = 2 if level.dense else 3
    if mean is None:
        return {"title": f"{output} does not read {expert}", "mean": ""}
    share = f"{100 * min(abs(mean) / level.full, 1.0):.1f}"
    cell = {"mean": _short(mean, digits), "std": "", "share": share, "bar": None, "negative": mean < 0}
    if std is None or level.constant:
        return cell | {"title": f"{output} reads {expert}: {mean:.4f}"}
    title = f"{output} reads {expert}: mean {mean:.4f}, standard deviation {std:.4f}"
    low, high = (min(max((abs(mean) + side * std) / level.full, 0.0), 1.0) for side in (-1, 1))
    bar = None if level.dense else (f"{100 * low:.1f}", f"{100 * (high - low):.1f}")
    return cell | {"title": title, "std": _short(std, digits), "bar": bar}


def _short(value: float, digits: int) -> str:
    """Return `0.123`, or `.12` with two digits, with a true minus sign; 1 if rounding reaches it."""
    shown = f"{abs(value):.{digits}f}"
    shown = shown.removeprefix("0") if digits < 3 and abs(value) < 1 and shown.startswith("0.") else shown
    return f"\u2212{shown}" if value < 0 and float(shown) else shown
