"""Text of an analysis, which `ple-rec analyze` prints."""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.analysis.result import Analysis, Cosines, SubPopulations
from ple_rec.reports.cells import mean_text
from ple_rec.runs.results import FEW, MISSING, plain_name, slice_name
from ple_rec.text import aligned
from ple_rec.text.plain import wrapped

ALONE = "A single task: there are no pairs to compare."


def format_analysis(analysis: Analysis, width: int) -> str:
    """Return a table of gates, tables of pairs of tasks, and for each column the gates that react most to its values.

    Args:
        analysis: Analysis of a run.
        width: Number of characters in a line of prose.
    """
    head = f"{plain_name(analysis.name)}: {analysis.variant}, checkpoint {analysis.checkpoint}, test split"
    pairs = (_distances(analysis, width), _pairs(analysis, width))
    blocks = [head, _gates(analysis), *pairs, *map(_sub_populations, analysis.sub_populations)]
    return "\n\n".join(block for block in blocks if block)


def no_gates(analysis: Analysis) -> str:
    """Return the reason why an analysis has no utilisation."""
    return f"{analysis.variant} has no gates here: its outputs mix experts in the same way for every sample."


def _gates(analysis: Analysis) -> str:
    if not analysis.utilisation.gates:
        return no_gates(analysis)
    lines = [["gate", "level", "of shared", "most of"]]
    for gate in analysis.utilisation.gates:
        most = max(gate.experts, key=lambda expert: expert.mean)
        words = f"{plain_name(most.name)} {mean_text(most.mean, most.std)}"
        lines.append([plain_name(gate.output), str(gate.level), f"{gate.of_shared:.3f}", words])
    return "\n".join(aligned(lines, left=(0, 3)))


def _pairs(analysis: Analysis, width: int) -> str:
    if len(analysis.tasks) < 2:
        return ALONE
    lines = [["tasks", "labels", "weights", "below 0", "inputs", "below 0"]]
    conflict = {each.tasks: each for each in (analysis.at_best.conflicts if analysis.at_best else ())}
    for each in analysis.correlations:
        pair = conflict.get(each.tasks)
        cells = [_pair(each.tasks), mean_text(each.value)]
        for cosines in (None, None) if pair is None else (pair.parameters, pair.inputs):
            cells += _cosines(cosines)
        lines.append(cells)
    note = (
        "labels: their correlation on the test split (- where one does not vary). weights, inputs: cosine of the "
        "tasks' gradients on the weights that they share and on the inputs, over "
        f"{analysis.gradient_batches} batch(es) of {analysis.gradient_split}."
    )
    return "\n".join([*aligned(lines), wrapped(note, width, "")])


def _distances(analysis: Analysis, width: int) -> str:
    differences = analysis.utilisation.differences
    if not differences:
        return ""
    levels = sorted({each.level for each in differences})
    lines = [["tasks", *(f"{name} {level}" for level in levels for name in ("among shared", "shared+own"))]]
    by_pair = {(each.tasks, each.level): (each.among_shared, each.shared_and_own) for each in differences}
    for tasks in dict.fromkeys(each.tasks for each in differences):
        lines.append(
            [_pair(tasks), *(mean_text(v) for level in levels for v in by_pair.get((tasks, level), (None, None)))]
        )
    note = (
        "Jensen-Shannon distance of the tasks' mean weights by level, 0 alike to 1 disjoint: among the experts that "
        "both read (- for a single one), and with all others as one more."
    )
    return "\n".join([*aligned(lines), wrapped(note, width, "")])


def _pair(tasks: Sequence[str]) -> str:
    return " / ".join(map(plain_name, tasks))


def _cosines(cosines: Cosines | None) -> list[str]:
    if cosines is None or cosines.mean is None:
        return [MISSING, MISSING]
    return [mean_text(cosines.mean, cosines.sd), f"{100 * (cosines.negative or 0):.0f} %"]


def _sub_populations(column: SubPopulations) -> str:
    lines = [[f"by {plain_name(column.column)}", "rows", "gate that reacts most", "JS"]]
    few = any(value.rows < FEW for value in column.values)
    for value in column.values:
        most = max(value.gates, key=lambda gate: gate.distance or 0.0, default=None)
        # The model has no gates.
        if most is None:
            return ""
        rows = f"{value.rows:,}" + ("*" if value.rows < FEW else " " * few)
        gate = f"level {most.level}, {plain_name(most.output)}"
        lines.append([slice_name(value.entry), rows, gate, mean_text(most.distance)])
    notes = [f"* fewer than {FEW} rows: says little"] if few else []
    return "\n".join([*aligned(lines, left=(0, 2)), *notes])
