"""What `ple-rec analyze` prints."""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.analysis.analyze import Analysis
from ple_rec.analysis.conflict import Cosines
from ple_rec.analysis.sub_populations import SubPopulations
from ple_rec.runs.results import FEW, MISSING, plain_name, slice_name
from ple_rec.text import aligned
from ple_rec.text.plain import wrapped

ALONE = "A single task: there are no pairs to compare."


def format_analysis(analysis: Analysis, width: int) -> str:
    """A table of gates, tables of pairs of tasks, and for each column the gate that reacts most to its values.

    Args:
        analysis: Of a run.
        width: Characters that a line of words may have.
    """
    head = f"{plain_name(analysis.name)}: {analysis.variant}, checkpoint {analysis.checkpoint}, test split"
    pairs = (_distances(analysis, width), _pairs(analysis, width))
    blocks = [head, _gates(analysis), *pairs, *map(_sub_populations, analysis.sub_populations)]
    return "\n\n".join(block for block in blocks if block)


def no_gates(analysis: Analysis) -> str:
    """Why there is no utilisation."""
    return f"{analysis.variant} has no gates here: what its outputs mix is the same for every sample."


def _gates(analysis: Analysis) -> str:
    if not analysis.utilisation.gates:
        return no_gates(analysis)
    lines = [["gate", "level", "of shared", "most of"]]
    for gate in analysis.utilisation.gates:
        most = max(gate.experts, key=lambda expert: expert.mean)
        words = f"{plain_name(most.name)} {most.mean:.3f} +- {most.std:.3f}"
        lines.append([plain_name(gate.output), str(gate.level), f"{gate.of_shared:.3f}", words])
    return "\n".join(aligned(lines, left=(0, 3)))


def _pairs(analysis: Analysis, width: int) -> str:
    if len(analysis.tasks) < 2:
        return ALONE
    lines = [["tasks", "labels", "weights", "below 0", "inputs", "below 0"]]
    conflict = {each.tasks: each for each in (analysis.at_best.conflicts if analysis.at_best else ())}
    for each in analysis.correlations:
        found = conflict.get(each.tasks)
        cells = [_pair(each.tasks), _three(each.value)]
        for cosines in (None, None) if found is None else (found.parameters, found.inputs):
            cells += _cosines(cosines)
        lines.append(cells)
    note = (
        "labels: their correlation on the test split (- where one does not vary). weights, inputs: cosine of the "
        "tasks' gradients on the weights that they share and on the inputs, over "
        f"{analysis.gradient_batches} batch(es) of {analysis.gradient_split}."
    )
    return "\n".join([*aligned(lines), wrapped(note, width, "")])


def _distances(analysis: Analysis, width: int) -> str:
    found = analysis.utilisation.differences
    if not found:
        return ""
    levels = sorted({each.level for each in found})
    lines = [["tasks", *(f"{name} {level}" for level in levels for name in ("among shared", "shared+own"))]]
    by_pair = {(each.tasks, each.level): (each.among_shared, each.shared_and_own) for each in found}
    for tasks in dict.fromkeys(each.tasks for each in found):
        lines.append(
            [_pair(tasks), *(_three(v) for level in levels for v in by_pair.get((tasks, level), (None, None)))]
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
    sd = "" if cosines.sd is None else f" +- {cosines.sd:.3f}"
    return [f"{cosines.mean:.3f}{sd}", f"{100 * (cosines.negative or 0):.0f} %"]


def _three(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _sub_populations(found: SubPopulations) -> str:
    lines = [[f"by {plain_name(found.column)}", "rows", "gate that reacts most", "JS"]]
    few = any(value.rows < FEW for value in found.values)
    for value in found.values:
        most = max(value.gates, key=lambda gate: gate.distance or 0.0, default=None)
        if most is None:  # without gates there is nothing to tell apart
            return ""
        rows = f"{value.rows:,}" + ("*" if value.rows < FEW else " " * few)
        gate = f"level {most.level}, {plain_name(most.output)}"
        lines.append([slice_name(value.entry), rows, gate, _three(most.distance)])
    notes = [f"* fewer than {FEW} rows: says little"] if few else []
    return "\n".join([*aligned(lines, left=(0, 2)), *notes])
