"""The section on A, the weights with which every level's outputs mix its experts: a heat map per level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.html.markup import absent, pairs, text
from ple_rec.train.report.lenient import entries, items
from ple_rec.train.report.run_files import RunFiles
from ple_rec.train.results import number

_BLOCK = 16  # experts side by side at most; a level with more is cut into blocks below each other
_LARGE = 12  # experts up to which cells are large, and have bars
_MANY_CELLS = 1500  # more than this are folded away

# What A is, for each way to make it. Unknown ways are shown like softmax.
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
class _Level:
    """One level's A: names, and (O, E) means and deviations, None where an output does not read an expert."""

    outputs: list[str]
    experts: list[str]
    mean: list[list[float | None]]
    std: list[list[float | None]]
    full: float  # the weight of full colour
    constant: bool

    @property
    def dense(self) -> bool:
        """Whether cells are small: two decimals, and no bars."""
        return len(self.experts) > _LARGE

    def reads(self, output: int, columns: range) -> bool:
        return any(self.mean[output][column] is not None for column in columns)


def gates(run: RunFiles) -> str:
    """What A is on each level, in words and as a heat map; words that serve every level stand once."""
    recorded = run.evaluated("gates")[1]
    if not isinstance(recorded, list):
        return absent("Not recorded.")
    if not recorded:
        return absent("This model has no gates.")
    levels = [(gate, str(gate.get("mixing", "softmax")), _read(gate)) for gate in entries(recorded)]
    words = [f"<p>{text(_words(mixing, level))}</p>" for _, mixing, level in levels]
    shared = len(set(words)) == 1
    content = words[0] if shared else ""
    for (gate, mixing, level), own in zip(levels, words, strict=True):
        heading = "Mix of levels" if mixing == "levels" else f"Level {gate.get('level', '')}"
        content += f"<h3>{text(heading)}</h3>" + ("" if shared else own) + _content(mixing, level)
    return content


def _content(mixing: str, level: _Level) -> str:
    if not level.outputs or not level.experts:
        return absent("Not recorded: outputs or experts are missing.")
    if mixing in _FIXED:
        return pairs((name, _readers(level, row)) for row, name in enumerate(level.outputs))
    return _heat_maps(level)


def _words(mixing: str, level: _Level) -> str:
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


def _read(gate: Mapping[str, Any]) -> _Level:
    outputs, experts = (list(map(str, items(gate.get(key)))) for key in ("outputs", "experts"))
    mean, std = (
        [[_entry(gate.get(key), row, column) for column in range(len(experts))] for row in range(len(outputs))]
        for key in ("mean", "std")
    )
    greatest = max((abs(value) for row in mean for value in row if value is not None), default=1.0)
    constant = not any(value for row in std for value in row)
    return _Level(outputs, experts, mean, std, _full_colour(greatest), constant)


def _entry(matrix: object, row: int, column: int) -> float | None:
    rows = items(matrix)
    values = items(rows[row]) if row < len(rows) else []
    return number(values[column]) if column < len(values) else None


def _full_colour(greatest: float) -> float:
    """The first of 1, 1.5, 2, 3, 5, 10 times a power of ten that the greatest weight does not exceed; 1 for 0."""
    if not greatest:
        return 1.0
    power = 10.0 ** math.floor(math.log10(greatest))
    return next(step * power for step in (1, 1.5, 2, 3, 5, 10) if step * power >= greatest * (1 - 1e-9))


def _readers(level: _Level, row: int) -> str:
    return ", ".join(name for name, value in zip(level.experts, level.mean[row], strict=True) if value is not None)


def _heat_maps(level: _Level) -> str:
    """The heat map under its scale; cut into blocks of experts where they are many."""
    blocks = _cut(level.experts)
    rows = range(len(level.outputs))
    shown = [[row for row in rows if len(blocks) == 1 or level.reads(row, columns)] for columns in blocks]
    maps = "".join(_heat_map(level, columns, rows) for columns, rows in zip(blocks, shown, strict=True))
    if sum(len(columns) * len(rows) for columns, rows in zip(blocks, shown, strict=True)) > _MANY_CELLS:
        size = f"{len(level.outputs)} outputs over {len(level.experts)} experts"
        maps = f"<details><summary>{size}</summary>{maps}</details>"
    negative = any(value < 0 for row in level.mean for value in row if value is not None)
    return _colours(level.full, negative=negative) + maps


def _colours(full: float, *, negative: bool) -> str:
    ends = (f"&minus;{full:g}" if negative else "0", f"{full:g}")
    return f'<p class="ramp{" diverging" * negative}"><span>{ends[0]}</span><i></i><span>{ends[1]}</span></p>'


def _cut(experts: Sequence[str]) -> list[range]:
    """Ranges of at most `_BLOCK` experts; one owner's stand in one range where they fit."""
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
    """Neighbouring equal names with the length of each run."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs


def _heat_map(level: _Level, columns: range, rows: Sequence[int]) -> str:
    names = [level.experts[column] for column in columns]
    runs = _runs([_owner(name) for name in names])
    numbered = len(runs) < len(names)
    span = ' rowspan="2"' * numbered
    owners = "".join(f'<th class="owner" scope="colgroup" colspan="{size}">{text(owner)}</th>' for owner, size in runs)
    numbers = "".join(f'<th scope="col" title="{text(name)}">{text(name.rpartition(".")[2])}</th>' for name in names)
    head = f'<tr><th class="text" scope="col"{span}>output</th>{owners}</tr>'
    head += f"<tr>{numbers}</tr>" * numbered
    body = ""
    for row in rows:
        cells = "".join(_cell(level, row, column) for column in columns)
        body += f'<tr><th scope="row">{text(level.outputs[row])}</th>{cells}</tr>'
    kind = "heat dense" if level.dense else "heat"
    return f'<div class="scroll"><table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _cell(level: _Level, row: int, column: int) -> str:
    output, expert = level.outputs[row], level.experts[column]
    mean, std = level.mean[row][column], level.std[row][column]
    digits = 2 if level.dense else 3
    if mean is None:
        return f'<td class="unread" title="{text(f"{output} does not read {expert}")}"></td>'
    share = 100 * min(abs(mean) / level.full, 1.0)
    kind = ' class="negative"' * (mean < 0)
    title = f"{output} reads {expert}: {mean:.4f}"
    style, deviation = f"--w:{share:.1f}%", ""
    if std is not None and not level.constant:
        low, high = (min(max((abs(mean) + side * std) / level.full, 0.0), 1.0) for side in (-1, 1))
        title = f"{output} reads {expert}: mean {mean:.4f}, standard deviation {std:.4f}"
        deviation = f"<small>&plusmn;{_short(std, digits)}</small>"
        if not level.dense:
            style += f";--a:{100 * low:.1f}%;--b:{100 * (high - low):.1f}%"
            deviation += "<i></i>"
    return f'<td{kind} style="{style}" title="{text(title)}">{_short(mean, digits)}{deviation}</td>'


def _short(value: float, digits: int) -> str:
    """`0.123`, where room is short `.12`; a true minus sign; 1 where rounding reaches it."""
    shown = f"{abs(value):.{digits}f}"
    shown = shown.removeprefix("0") if digits < 3 and abs(value) < 1 and shown.startswith("0.") else shown
    return f"&minus;{shown}" if value < 0 and float(shown) else shown
