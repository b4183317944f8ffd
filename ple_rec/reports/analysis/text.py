"""Text of an analysis, which `ple-rec analyze` prints: how the tasks of a run use its experts."""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.analysis.result import Analysis, Cosines, SubPopulations
from ple_rec.reports.cells import mean_with_sd
from ple_rec.runs.results import FEW_SAMPLES, MISSING, plain_name, slice_name
from ple_rec.text import align_columns
from ple_rec.text.plain import wrap_text

SINGLE_TASK = "A single task: there are no pairs to compare."


def format_analysis(analysis: Analysis, width: int) -> str:
    """Return a table of gates, tables of pairs of tasks, and a table for each column by which the rows are divided.

    The last has, for each value of the column, the gate whose mean weights over the rows with the value differ most
    from its mean weights over all rows.

    Args:
        analysis: Analysis of a run.
        width: Largest number of characters in a line of prose; tables may be wider.
    """
    head = f"{plain_name(analysis.name)}: {analysis.variant}, checkpoint {analysis.checkpoint}, test split"
    pairs = (_distance_table(analysis, width), _pair_table(analysis, width))
    blocks = [head, _gate_table(analysis), *pairs, *map(_sub_population_table, analysis.sub_populations)]
    return "\n\n".join(block for block in blocks if block)


def no_gates_text(analysis: Analysis) -> str:
    """Return the sentence that replaces the table of gates if the model has none."""
    return f"{analysis.variant} has no gates here: its outputs mix experts in the same way for every sample."


def _gate_table(analysis: Analysis) -> str:
    """Return the mean weight of each gate on all shared experts, and the expert with its greatest mean weight."""
    if not analysis.utilisation.gates:
        return no_gates_text(analysis)
    lines = [["gate", "level", "of shared", "most of"]]
    for gate in analysis.utilisation.gates:
        most = max(gate.experts, key=lambda expert: expert.mean)
        words = f"{plain_name(most.name)} {mean_with_sd(most.mean, most.std)}"
        lines.append([plain_name(gate.output), str(gate.level), f"{gate.of_shared:.3f}", words])
    return "\n".join(align_columns(lines, left_columns=(0, 3)))


def _pair_table(analysis: Analysis, width: int) -> str:
    if len(analysis.tasks) < 2:
        return SINGLE_TASK
    lines = [["tasks", "labels", "weights", "below 0", "inputs", "below 0"]]
    conflicts = analysis.best_checkpoint.conflicts if analysis.best_checkpoint else ()
    conflict_by_pair = {each.tasks: each for each in conflicts}
    for each in analysis.correlations:
        pair = conflict_by_pair.get(each.tasks)
        cells = [_pair_name(each.tasks), mean_with_sd(each.value)]
        for cosines in (None, None) if pair is None else (pair.parameters, pair.inputs):
            cells += _cosine_cells(cosines)
        lines.append(cells)
    note = (
        "labels: their correlation on the test split (- where one does not vary). weights, inputs: cosine of the "
        "tasks' gradients on the weights that they share and on the inputs, over "
        f"{analysis.gradient_batches} batch(es) of {analysis.gradient_split}."
    )
    return "\n".join([*align_columns(lines), wrap_text(note, width, "")])


def _distance_table(analysis: Analysis, width: int) -> str:
    differences = analysis.utilisation.differences
    if not differences:
        return ""
    levels = sorted({each.level for each in differences})
    lines = [["tasks", *(f"{name} {level}" for level in levels for name in ("among shared", "shared+own"))]]
    by_pair = {(each.tasks, each.level): (each.among_shared, each.shared_and_own) for each in differences}
    for tasks in dict.fromkeys(each.tasks for each in differences):
        lines.append(
            [
                _pair_name(tasks),
                *(mean_with_sd(v) for level in levels for v in by_pair.get((tasks, level), (None, None))),
            ]
        )
    note = (
        "Jensen-Shannon distance of the tasks' mean weights by level, 0 alike to 1 disjoint: among the experts that "
        "both read (- for a single one), and with all others as one more."
    )
    return "\n".join([*align_columns(lines), wrap_text(note, width, "")])


def _pair_name(tasks: Sequence[str]) -> str:
    return " / ".join(map(plain_name, tasks))


def _cosine_cells(cosines: Cosines | None) -> list[str]:
    if cosines is None or cosines.mean is None:
        return [MISSING, MISSING]
    return [mean_with_sd(cosines.mean, cosines.sd), f"{100 * (cosines.negative or 0):.0f} %"]


def _sub_population_table(column: SubPopulations) -> str:
    lines = [[f"by {plain_name(column.column)}", "rows", "gate that reacts most", "JS"]]
    has_few_rows = any(value.rows < FEW_SAMPLES for value in column.values)
    for value in column.values:
        most = max(value.gates, key=lambda gate: gate.distance or 0.0, default=None)
        if most is None:  # The model has no gates.
            return ""
        rows = f"{value.rows:,}" + ("*" if value.rows < FEW_SAMPLES else " " * has_few_rows)
        gate = f"level {most.level}, {plain_name(most.output)}"
        lines.append([slice_name(value.entry), rows, gate, mean_with_sd(most.distance)])
    notes = [f"* fewer than {FEW_SAMPLES} rows: says little"] if has_few_rows else []
    return "\n".join([*align_columns(lines, left_columns=(0, 2)), *notes])
