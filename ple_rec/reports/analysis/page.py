"""Files of an analysis, and its page, `analysis.html`: utilisation, relations of tasks, gates by sub-population."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from ple_rec.analysis.result import Analysis, Cosines, Reaction, SubPopulations, Value
from ple_rec.reports.analysis.text import ALONE, no_gates
from ple_rec.reports.cells import DASH, true_minus
from ple_rec.reports.gate_bars import gate_bars
from ple_rec.reports.page import Fact, Panel, Part, render, write_document
from ple_rec.runs.directory import hold_to_add
from ple_rec.runs.layout import ANALYSIS, ANALYSIS_PAGE, write_text
from ple_rec.runs.results import FEW, slice_name
from ple_rec.storage import Location
from ple_rec.text.plain import json_text

# A table of sub-populations has at most so many columns of weights and distances side by side.
_ACROSS = 9


class Cell(NamedTuple):
    """Number in a heat map, with its standard deviation and its share of the full colour in percent.

    Args:
        text: Text of the number.
        share: Share of the full colour in percent; empty for a cell without colour.
        sd: Text of the standard deviation; empty without one.
        negative: True to take the colour of negative numbers.
    """

    text: str
    share: str = ""
    sd: str = ""
    negative: bool = False


def write_analysis(analysis: Analysis, run_dir: Location) -> tuple[str, Location]:
    """Write `analysis.json` and the page into a run directory.

    Returns:
        Content of `analysis.json`, and the path of the page.

    Raises:
        UserError: The files cannot be written.
    """
    text = json_text(analysis.record())
    with hold_to_add(run_dir):
        write_text(run_dir / ANALYSIS, text + "\n")
        return text, write_page(analysis, run_dir)


def write_page(analysis: Analysis, run_dir: Location) -> Location:
    """Write the page into a run directory; equal analyses give equal bytes.

    Raises:
        UserError: The file cannot be written.
    """
    target = run_dir / ANALYSIS_PAGE
    rule = "the analysis is a page in the run directory"
    write_document(analysis_page(analysis), target, rule=rule, fix="free disk space, or make the path writable")
    return target


def analysis_page(analysis: Analysis) -> str:
    """Return the page as HTML."""
    facts = [("variant", analysis.variant), ("checkpoint", analysis.checkpoint), ("tasks", ", ".join(analysis.tasks))]
    parts = [
        Part("utilisation", "Expert utilisation", _utilisation(analysis)),
        Part("sharing", "What tasks share", _sharing(analysis)),
        Part("conflict", "Gradient conflict", _conflict(analysis)),
        Part("labels", "Label correlation", _labels(analysis)),
        Part("sub-populations", "Gates by sub-population", _sub_populations(analysis)),
    ]
    return render("analysis", parts, name=analysis.name, facts=[Fact(*fact) for fact in facts])


def _utilisation(analysis: Analysis) -> dict[str, Any]:
    """Return bars of every gate by level; in each section, `absent` is the reason if there is nothing to show."""
    gates = analysis.utilisation.gates
    if not gates:
        return {"absent": no_gates(analysis)}
    ends = [min(1.0, expert.mean + expert.std) for gate in gates for expert in gate.experts]
    limit = min(1.0, math.ceil(10 * max(ends) + 0.1) / 10)
    levels = {
        level: [
            Panel(gate.output, f"{gate.of_shared:.3f} on shared experts", gate_bars(f"gate-{level}-{i}", gate, limit))
            for i, gate in enumerate(level_gates)
        ]
        for level, level_gates in groupby(gates, key=lambda gate: gate.level)
    }
    return {"absent": "", "levels": levels}


def _sharing(analysis: Analysis) -> dict[str, Any]:
    """Return, for each pair of tasks, two distances between their gates on each level."""
    differences = analysis.utilisation.differences
    if not differences:
        alone = len(analysis.tasks) < 2
        return {"absent": ALONE if alone else "No two gates of tasks read a common expert."}
    levels = sorted({each.level: len(each.shared) for each in differences}.items())
    by_pair = {(each.tasks, each.level): (each.among_shared, each.shared_and_own) for each in differences}
    rows = [
        (
            " / ".join(tasks),
            [_weight(value) for level, _ in levels for value in by_pair.get((tasks, level), (None, None))],
        )
        for tasks in dict.fromkeys(each.tasks for each in differences)
    ]
    return {"absent": "", "levels": levels, "rows": rows}


def _weight(value: float | None) -> Cell:
    return Cell(DASH) if value is None else Cell(f"{value:.3f}", f"{100 * value:.1f}")


def _conflict(analysis: Analysis) -> dict[str, Any]:
    """Return the cosines of the gradients of every pair of tasks, at the best checkpoint and over training."""
    best, steps = analysis.at_best, analysis.steps
    if best is None:
        return {"absent": ALONE}
    pairs = [" / ".join(each.tasks) for each in steps[0].conflicts]
    kinds = (
        ("Weights", [[each.parameters for each in at.conflicts] for at in steps]),
        ("Inputs", [[each.inputs for each in at.conflicts] for at in steps]),
    )
    return {
        "absent": "",
        "split": analysis.gradient_split,
        "batches": analysis.gradient_batches,
        "step": best.step,
        "rows": [(" / ".join(each.tasks), [_cosine(each.parameters), _cosine(each.inputs)]) for each in best.conflicts],
        "steps": [f"step {at.step:,}{' (best)' if at.best else ''}" for at in steps] if len(steps) > 1 else [],
        "over_training": [
            (name, [(pair, [_cell(at[place]) for at in by_step]) for place, pair in enumerate(pairs)])
            for name, by_step in kinds
        ],
    }


def _cosine(cosines: Cosines) -> tuple[str, str, str, str]:
    """Return mean, standard deviation, share of batches below 0, and number of elements that both gradients reach."""
    below = DASH if cosines.mean is None else f"{100 * (cosines.negative or 0.0):.0f} %"
    return _number(cosines.mean), _sd(cosines), below, f"{cosines.reached:,.0f}"


def _cell(cosines: Cosines) -> Cell:
    if cosines.mean is None:
        return Cell(DASH)
    return Cell(_number(cosines.mean), f"{100 * abs(cosines.mean):.1f}", _sd(cosines), cosines.mean < 0)


def _sd(cosines: Cosines) -> str:
    return "" if cosines.mean is None or cosines.sd is None else f"{cosines.sd:.3f}"


def _labels(analysis: Analysis) -> dict[str, Any]:
    rows = [(" / ".join(each.tasks), _number(each.value), each.rows) for each in analysis.correlations]
    return {"absent": "" if rows else ALONE, "rows": rows}


def _sub_populations(analysis: Analysis) -> dict[str, Any] | None:
    if not analysis.utilisation.gates:
        return {"absent": no_gates(analysis)} if analysis.sub_populations else None
    columns = [(each.column, list(_tables(each))) for each in analysis.sub_populations]
    return {"absent": "", "few": FEW, "columns": columns}


def _tables(column: SubPopulations) -> Iterator[dict[str, Any]]:
    """Yield tables of a few gates side by side: a row for each value of a column, and one for all rows."""
    for places in _side_by_side(column.values[0].gates):
        gates = [column.values[0].gates[place] for place in places]
        yield {
            "gates": [(f"level {gate.level}, {gate.output}", gate.experts) for gate in gates],
            "rows": [_row(value, [value.gates[place] for place in places]) for value in column.values],
            "total": sum(value.rows for value in column.values),
            "whole": [cell for gate in gates for cell in (*map(_weight, gate.whole), Cell(""))],
        }


def _row(value: Value, gates: Sequence[Reaction]) -> tuple[str, bool, int, list[Cell]]:
    cells = [cell for gate in gates for cell in (*map(_weight, gate.mean), Cell(_number(gate.distance)))]
    return slice_name(value.entry), value.rows < FEW, value.rows, cells


def _side_by_side(gates: Sequence[Reaction]) -> list[list[int]]:
    """Return the indices of gates in groups, each of one level and not too wide for a table."""
    groups: list[list[int]] = []
    width = 0
    for place, gate in enumerate(gates):
        width += len(gate.experts) + 1
        if not groups or width > _ACROSS or gates[groups[-1][0]].level != gate.level:
            groups.append([])
            width = len(gate.experts) + 1
        groups[-1].append(place)
    return groups


def _number(value: float | None) -> str:
    return DASH if value is None else true_minus(f"{value:.3f}")
