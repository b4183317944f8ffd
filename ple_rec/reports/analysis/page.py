"""Write the files of an analysis: `analysis.json`, and its page, `analysis.html`.

An analysis describes how the tasks of a trained run use its experts: the weights of each gate, what two tasks share,
the conflict of their gradients, the correlation of their labels, and the gates on sub-populations. A sub-population is
the rows of the test split that have the same value in a column. `ple-rec analyze` calls `write_analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from ple_rec.analysis.result import Analysis, Cosines, GateForValue, SubPopulation, SubPopulations
from ple_rec.reports.analysis.text import SINGLE_TASK, no_gates_text
from ple_rec.reports.cells import DASH, true_minus
from ple_rec.reports.gate_bars import gate_bars
from ple_rec.reports.page import Fact, Panel, Section, render_page, write_document
from ple_rec.runs.directory import hold_to_add
from ple_rec.runs.layout import ANALYSIS, ANALYSIS_PAGE, write_text
from ple_rec.runs.results import FEW_SAMPLES, slice_name
from ple_rec.storage import Location
from ple_rec.text.plain import json_text

# A table of gates by sub-population has at most this many columns of weights and distances, unless one gate needs more.
_MAX_COLUMNS = 9


class Cell(NamedTuple):
    """Number in a heat map, with its standard deviation and its share of the full colour in percent.

    Args:
        text: Text of the number.
        colour_percent: Share of the full colour in percent; empty for a cell without colour.
        sd: Text of the standard deviation; empty without one.
        negative: True to take the colour of negative numbers.
    """

    text: str
    colour_percent: str = ""
    sd: str = ""
    negative: bool = False


def write_analysis(analysis: Analysis, run_dir: Location) -> tuple[str, Location]:
    """Write `analysis.json` and the page into a run directory.

    Returns:
        Content of `analysis.json`, and the path of the page.

    Raises:
        UserError: The files cannot be written, or the directory is in an object store and a process trains in it.
    """
    text = json_text(analysis.record())
    with hold_to_add(run_dir):
        write_text(run_dir / ANALYSIS, text + "\n")
        return text, write_page(analysis, run_dir)


def write_page(analysis: Analysis, run_dir: Location) -> Location:
    """Write the page into a run directory, and return its path; equal analyses give equal bytes.

    Raises:
        UserError: The file cannot be written.
    """
    target = run_dir / ANALYSIS_PAGE
    rule = "the analysis is a page in the run directory"
    write_document(analysis_page(analysis), target, rule=rule, fix="free disk space, or make the path writable")
    return target


def analysis_page(analysis: Analysis) -> str:
    """Return the page as HTML.

    In the values of each section, `absent` is the reason why there is nothing to show; empty otherwise.
    """
    facts = [("variant", analysis.variant), ("checkpoint", analysis.checkpoint), ("tasks", ", ".join(analysis.tasks))]
    sections = [
        Section("utilisation", "Expert utilisation", _utilisation(analysis)),
        Section("sharing", "What tasks share", _sharing(analysis)),
        Section("conflict", "Gradient conflict", _conflict(analysis)),
        Section("labels", "Label correlation", _labels(analysis)),
        Section("sub-populations", "Gates by sub-population", _sub_populations(analysis)),
    ]
    return render_page("analysis", sections, name=analysis.name, facts=[Fact(*fact) for fact in facts])


def _utilisation(analysis: Analysis) -> dict[str, Any]:
    """Return bars of every gate by level."""
    gates = analysis.utilisation.gates
    if not gates:
        return {"absent": no_gates_text(analysis)}
    # All bars have the same axis, up to the next tenth above the longest line of a standard deviation, at most 1.
    line_ends = [min(1.0, expert.mean + expert.std) for gate in gates for expert in gate.experts]
    axis_end = min(1.0, math.ceil(10 * max(line_ends) + 0.1) / 10)
    levels = {
        level: [
            Panel(
                gate.output, f"{gate.of_shared:.3f} on shared experts", gate_bars(f"gate-{level}-{i}", gate, axis_end)
            )
            for i, gate in enumerate(level_gates)
        ]
        for level, level_gates in groupby(gates, key=lambda gate: gate.level)
    }
    return {"absent": "", "levels": levels}


def _sharing(analysis: Analysis) -> dict[str, Any]:
    """Return two distances between the gates of each pair of tasks, on each level.

    One is over the experts that both gates read; in the other, all other experts of a gate count as one more.
    """
    differences = analysis.utilisation.differences
    if not differences:
        alone = len(analysis.tasks) < 2
        return {"absent": SINGLE_TASK if alone else "No two gates of tasks read a common expert."}
    # Pairs of a level and its number of shared experts.
    levels = sorted({each.level: len(each.shared) for each in differences}.items())
    by_pair = {(each.tasks, each.level): (each.among_shared, each.shared_and_own) for each in differences}
    rows = [
        (
            " / ".join(tasks),
            [_fraction_cell(value) for level, _ in levels for value in by_pair.get((tasks, level), (None, None))],
        )
        for tasks in dict.fromkeys(each.tasks for each in differences)
    ]
    return {"absent": "", "levels": levels, "rows": rows}


def _fraction_cell(value: float | None) -> Cell:
    """Return the cell of a weight or distance from 0 to 1, which is also its share of the full colour."""
    return Cell(DASH) if value is None else Cell(f"{value:.3f}", f"{100 * value:.1f}")


def _conflict(analysis: Analysis) -> dict[str, Any]:
    """Return the cosines of the gradients of every pair of tasks, at the best checkpoint and at each analysed step."""
    best, steps = analysis.best_checkpoint, analysis.steps
    if best is None:
        return {"absent": SINGLE_TASK}
    pairs = [" / ".join(each.tasks) for each in steps[0].conflicts]
    kinds = (
        ("Weights", [[each.parameters for each in step.conflicts] for step in steps]),
        ("Inputs", [[each.inputs for each in step.conflicts] for step in steps]),
    )
    return {
        "absent": "",
        "split": analysis.gradient_split,
        "batches": analysis.gradient_batches,
        "step": best.step,
        "rows": [
            (" / ".join(each.tasks), [_cosine_texts(each.parameters), _cosine_texts(each.inputs)])
            for each in best.conflicts
        ],
        "steps": [f"step {each.step:,}{' (best)' if each.best else ''}" for each in steps] if len(steps) > 1 else [],
        "over_training": [
            (
                name,
                [(pair, [_cosine_cell(pairs_of_step[i]) for pairs_of_step in by_step]) for i, pair in enumerate(pairs)],
            )
            for name, by_step in kinds
        ],
    }


def _cosine_texts(cosines: Cosines) -> tuple[str, str, str, str]:
    """Return mean, standard deviation, share of batches below 0, and mean number of elements without a 0 in either."""
    below = DASH if cosines.mean is None else f"{100 * (cosines.negative or 0.0):.0f} %"
    return _number_text(cosines.mean), _sd_text(cosines), below, f"{cosines.reached:,.0f}"


def _cosine_cell(cosines: Cosines) -> Cell:
    if cosines.mean is None:
        return Cell(DASH)
    return Cell(_number_text(cosines.mean), f"{100 * abs(cosines.mean):.1f}", _sd_text(cosines), cosines.mean < 0)


def _sd_text(cosines: Cosines) -> str:
    return "" if cosines.mean is None or cosines.sd is None else f"{cosines.sd:.3f}"


def _labels(analysis: Analysis) -> dict[str, Any]:
    rows = [(" / ".join(each.tasks), _number_text(each.value), each.rows) for each in analysis.correlations]
    return {"absent": "" if rows else SINGLE_TASK, "rows": rows}


def _sub_populations(analysis: Analysis) -> dict[str, Any] | None:
    """Return the tables of gates by sub-population; None if the model has no gates and no sub-population is asked for.

    If the model has gates and none is asked for, `columns` is empty, and the page says how to ask for one.
    """
    if not analysis.utilisation.gates:
        return {"absent": no_gates_text(analysis)} if analysis.sub_populations else None
    columns = [(each.column, list(_gate_tables(each))) for each in analysis.sub_populations]
    return {"absent": "", "few_samples": FEW_SAMPLES, "columns": columns}


def _gate_tables(column: SubPopulations) -> Iterator[dict[str, Any]]:
    """Yield tables, each for a few gates side by side: a row for each value of the column, and last all rows."""
    for places in _group_gates(column.values[0].gates):
        gates = [column.values[0].gates[place] for place in places]
        yield {
            "gates": [(f"level {gate.level}, {gate.output}", gate.experts) for gate in gates],
            "rows": [_value_row(value, [value.gates[place] for place in places]) for value in column.values],
            "total_rows": sum(value.rows for value in column.values),
            "cells_of_all_rows": [cell for gate in gates for cell in (*map(_fraction_cell, gate.whole), Cell(""))],
        }


def _value_row(value: SubPopulation, gates: Sequence[GateForValue]) -> tuple[str, bool, int, list[Cell]]:
    """Return a value of the column, whether it has few rows, their number, and weights and distance for each gate."""
    cells = [cell for gate in gates for cell in (*map(_fraction_cell, gate.mean), Cell(_number_text(gate.distance)))]
    return slice_name(value.entry), value.rows < FEW_SAMPLES, value.rows, cells


def _group_gates(gates: Sequence[GateForValue]) -> list[list[int]]:
    """Return the indices of gates in groups: the gates of a group are of one level, and fit into one table."""
    groups: list[list[int]] = []
    width = 0
    for place, gate in enumerate(gates):
        width += len(gate.experts) + 1
        if not groups or width > _MAX_COLUMNS or gates[groups[-1][0]].level != gate.level:
            groups.append([])
            width = len(gate.experts) + 1
        groups[-1].append(place)
    return groups


def _number_text(value: float | None) -> str:
    return DASH if value is None else true_minus(f"{value:.3f}")
