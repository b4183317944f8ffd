"""`analysis.html`: utilisation, what tasks share and where they conflict, gates by sub-population; loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ple_rec.analysis.analyze import Analysis
from ple_rec.analysis.analyze_text import ALONE, no_gates
from ple_rec.analysis.conflict import Conflict, Cosines
from ple_rec.analysis.sub_populations import Reaction, SubPopulations, Value
from ple_rec.html.markup import DASH, absent, figure, table, text
from ple_rec.html.page import Part, document, write_document
from ple_rec.reports.gate_bars import gate_bars
from ple_rec.train.results import FEW, slice_name
from ple_rec.train.run_dir import ANALYSIS_PAGE

_ACROSS = 9  # columns of weights and distances side by side in a table of sub-populations
_STYLE = """
.legend .own::before, .legend .shared::before { width: .8em; height: .8em; border: 0; background: var(--train); }
.legend .shared::before { background: repeating-linear-gradient(135deg, var(--valid) 0 3px, var(--page) 3px 4px); }
.heat th small { color: var(--muted); font-weight: 400; }
.heat td.plain { background: none; box-shadow: none; }
.heat td.count { text-align: right; background: none; box-shadow: none; min-width: 0; }
"""


def write_page(analysis: Analysis, run_dir: Path) -> Path:
    """Write the page into a run directory; equal analyses give equal bytes.

    Raises:
        UserError: it cannot be written.
    """
    target = run_dir / ANALYSIS_PAGE
    rule = "the analysis is a page in the run directory"
    write_document(analysis_page(analysis), target, rule=rule, fix="free disk space, or make the path writable")
    return target


def analysis_page(analysis: Analysis) -> str:
    """The page, as HTML."""
    facts = [("variant", analysis.variant), ("checkpoint", analysis.checkpoint), ("tasks", ", ".join(analysis.tasks))]
    spans = "".join(f"<span>{name} <strong>{text(value)}</strong></span>" for name, value in facts)
    head = (
        f'<header><p class="eyebrow">Analysis of a run</p><h1>{text(analysis.name)}</h1>'
        f'<p class="facts">{spans}</p></header>\n'
    )
    parts = [
        Part("utilisation", "Expert utilisation", _utilisation(analysis)),
        Part("sharing", "What tasks share", _differences(analysis)),
        Part("conflict", "Gradient conflict", _conflict(analysis)),
        Part("labels", "Label correlation", _correlations(analysis)),
        Part("sub-populations", "Gates by sub-population", _sub_populations(analysis)),
    ]
    title = f"{analysis.name} - analysis"
    return document(title, head, "", parts, "Made by ple-rec analyze from this run and its dataset.", style=_STYLE)


def _utilisation(analysis: Analysis) -> str:
    gates = analysis.utilisation.gates
    if not gates:
        return absent(no_gates(analysis))
    ends = [min(1.0, expert.mean + expert.std) for gate in gates for expert in gate.experts]
    limit = min(1.0, math.ceil(10 * max(ends) + 0.1) / 10)
    content = (
        "<p>Weight of every expert in every gate, over the whole test split: the bar is the mean, the line one "
        "standard deviation to either side. Weights of a gate sum to 1.</p>"
        '<p class="legend"><span class="own">experts of a task</span><span class="shared">shared experts</span></p>'
    )
    for level, of_level in groupby(gates, key=lambda gate: gate.level):
        panels = [
            figure(
                gate.output,
                f"{gate.of_shared:.3f} on shared experts",
                gate_bars(f"gate-{level}-{place}", gate, limit),
            )
            for place, gate in enumerate(of_level)
        ]
        content += f'<h3>Level {level}</h3><div class="panels">{"".join(panels)}</div>'
    return content


def _differences(analysis: Analysis) -> str:
    found = analysis.utilisation.differences
    if not found:
        return absent(ALONE) if len(analysis.tasks) < 2 else absent("No two gates of tasks read a common expert.")
    content = (
        "<p>Jensen-Shannon distance between two tasks' mean weights, from 0 (alike) to 1 (disjoint): "
        "JS(p, q) = &radic;(&frac12; &sum; p log<sub>2</sub>(p/m) + &frac12; &sum; q log<sub>2</sub>(q/m)), "
        "m = (p + q)/2. Among shared: over the experts that both read, weights divided by their sum; with a single "
        "one there is nothing to compare. Shared and own: with all that is not shared as one more, so that it also "
        "tells who leans more on what is shared.</p>"
    )
    levels = sorted({each.level for each in found})
    shared = {each.level: len(each.shared) for each in found}
    owners = "".join(f'<th scope="colgroup" colspan="2">level {level}, {shared[level]} shared</th>' for level in levels)
    names = '<th scope="col">among shared</th><th scope="col">shared and own</th>' * len(levels)
    head = f'<tr><th class="text" scope="col" rowspan="2">tasks</th>{owners}</tr><tr>{names}</tr>'
    by_pair = {(each.tasks, each.level): (each.among_shared, each.shared_and_own) for each in found}
    body = ""
    for tasks in dict.fromkeys(each.tasks for each in found):
        values = [value for level in levels for value in by_pair.get((tasks, level), (None, None))]
        body += f'<tr><th scope="row">{text(" / ".join(tasks))}</th>{"".join(map(_distance_cell, values))}</tr>'
    return content + '<p class="ramp"><span>0</span><i></i><span>1</span></p>' + _heat(head, body)


def _distance_cell(value: float | None) -> str:
    return f'<td class="plain">{DASH}</td>' if value is None else f'<td style="--w:{100 * value:.1f}%">{value:.3f}</td>'


def _conflict(analysis: Analysis) -> str:
    best = analysis.at_best
    if best is None:
        return absent(ALONE)
    content = (
        "<p>Cosine between the gradients of two tasks' losses; below 0 a step that helps one hurts the other. Weights: "
        "the dense parameters that both gradients reach. Inputs: what the first level reads, row by row. Mean over "
        f"{analysis.gradient_batches} batches of the {analysis.gradient_split} split, &plusmn; their standard "
        "deviation; the share of batches below 0; and how many elements both gradients reach.</p>"
    )
    head = _heads("tasks", "weights", "below 0", "elements", "inputs", "below 0", "elements")
    body = [
        f"<tr>{_names(each.tasks)}{_cosines(each.parameters)}{_cosines(each.inputs)}</tr>" for each in best.conflicts
    ]
    content += f"<h3>At the best checkpoint, step {best.step:,}</h3>" + table(head, body)
    if len(analysis.steps) > 1:
        content += "<h3>Over training, at the checkpoints that are kept</h3>" + _over_training(analysis)
    return content


def _over_training(analysis: Analysis) -> str:
    """A heat map of each kind of cosine: a row for a pair of tasks, a column for a checkpoint."""
    ramp = '<p class="ramp diverging"><span>&minus;1</span><i></i><span>1</span></p>'
    content = ramp
    heads = "".join(f'<th scope="col">step {at.step:,}{" (best)" if at.best else ""}</th>' for at in analysis.steps)
    for name, of_pair in (("Weights", _of_parameters), ("Inputs", _of_inputs)):
        body = ""
        for place, pair in enumerate(analysis.steps[0].conflicts):
            cells = "".join(_cosine_cell(of_pair(at.conflicts[place])) for at in analysis.steps)
            body += f'<tr><th scope="row">{text(" / ".join(pair.tasks))}</th>{cells}</tr>'
        head = f'<tr><th class="text" scope="col">{name}</th>{heads}</tr>'
        content += _heat(head, body)
    return content


def _of_parameters(conflict: Conflict) -> Cosines:
    return conflict.parameters


def _of_inputs(conflict: Conflict) -> Cosines:
    return conflict.inputs


def _cosine_cell(cosines: Cosines) -> str:
    if cosines.mean is None:
        return f'<td class="plain">{DASH}</td>'
    sd = "" if cosines.sd is None else f"<small>&plusmn;{cosines.sd:.3f}</small>"
    kind = ' class="negative"' * (cosines.mean < 0)
    return f'<td{kind} style="--w:{100 * abs(cosines.mean):.1f}%">{_number(cosines.mean)}{sd}</td>'


def _correlations(analysis: Analysis) -> str:
    if not analysis.correlations:
        return absent(ALONE)
    content = (
        "<p>Pearson's correlation of two tasks' labels (of two binary ones: phi) on the rows of the test split that "
        "lie in both sample spaces; &ndash; where one of them does not vary there.</p>"
    )
    body = [
        f"<tr>{_names(each.tasks)}<td>{_number(each.value)}</td><td>{each.rows:,}</td></tr>"
        for each in analysis.correlations
    ]
    return content + table(_heads("tasks", "correlation", "rows"), body)


def _sub_populations(analysis: Analysis) -> str:
    if not analysis.utilisation.gates:
        return absent(no_gates(analysis)) if analysis.sub_populations else ""
    if not analysis.sub_populations:
        return (
            '<p class="absent">None asked for: <code>ple-rec analyze RUN --by COLUMN</code>, or '
            "<code>evaluation.slices</code>, names a column of the test split.</p>"
        )
    content = (
        "<p>Mean weights of each gate over the rows of the test split that share a value; the last column of a gate is "
        "the Jensen-Shannon distance from its mean over all rows: 0 where the gate does not react. "
        f"Few rows: fewer than {FEW}, whose distance says little.</p>"
        '<p class="ramp"><span>0</span><i></i><span>1</span></p>'
    )
    return content + "".join(map(_column, analysis.sub_populations))


def _column(found: SubPopulations) -> str:
    content = f"<h3>By {text(found.column)}</h3>"
    for places in _side_by_side(found.values[0].gates):
        gates = [found.values[0].gates[place] for place in places]
        heads = "".join(
            f'<th class="owner" scope="colgroup" colspan="{len(gate.experts) + 1}">level {gate.level}, '
            f"{text(gate.output)}</th>"
            for gate in gates
        )
        names = "".join(
            "".join(f'<th scope="col">{text(name)}</th>' for name in gate.experts) + '<th scope="col">JS</th>'
            for gate in gates
        )
        head = f'<tr><th class="text" scope="col" rowspan="2">value</th><th rowspan="2">rows</th>{heads}</tr>'
        body = "".join(_value_row(value, [value.gates[place] for place in places]) for value in found.values)
        whole = "".join(_weights(gate.whole) + '<td class="plain"></td>' for gate in gates)
        rows = sum(value.rows for value in found.values)
        body += f'<tr><th scope="row">all rows</th><td class="count">{rows:,}</td>{whole}</tr>'
        content += _heat(f"{head}<tr>{names}</tr>", body)
    return content


def _side_by_side(gates: Sequence[Reaction]) -> list[list[int]]:
    """Gates by their places, in groups of one level that are not too wide."""
    groups: list[list[int]] = []
    width = 0
    for place, gate in enumerate(gates):
        width += len(gate.experts) + 1
        if not groups or width > _ACROSS or gates[groups[-1][0]].level != gate.level:
            groups.append([])
            width = len(gate.experts) + 1
        groups[-1].append(place)
    return groups


def _value_row(value: Value, gates: Sequence[Reaction]) -> str:
    cells = "".join(f'{_weights(gate.mean)}<td class="plain">{_number(gate.distance)}</td>' for gate in gates)
    label = text(slice_name(value.entry)) + (" <small>few rows</small>" if value.rows < FEW else "")
    return f'<tr><th scope="row">{label}</th><td class="count">{value.rows:,}</td>{cells}</tr>'


def _weights(weights: Sequence[float]) -> str:
    return "".join(f'<td style="--w:{100 * weight:.1f}%">{weight:.3f}</td>' for weight in weights)


def _heat(head: str, body: str) -> str:
    return f'<div class="scroll"><table class="heat"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _heads(first: str, *others: str) -> list[str]:
    return [f'<th class="text" scope="col">{first}</th>', *(f'<th scope="col">{name}</th>' for name in others)]


def _names(tasks: Sequence[str]) -> str:
    return f'<th class="text" scope="row">{text(" / ".join(tasks))}</th>'


def _cosines(cosines: Cosines) -> str:
    if cosines.mean is None:
        return f"<td>{DASH}</td><td>{DASH}</td><td>{cosines.reached:,.0f}</td>"
    sd = "" if cosines.sd is None else f" <small>&plusmn;{cosines.sd:.3f}</small>"
    below = 100 * (cosines.negative or 0.0)
    return f"<td>{_number(cosines.mean)}{sd}</td><td>{below:.0f} %</td><td>{cosines.reached:,.0f}</td>"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}".replace("-", "&minus;")
