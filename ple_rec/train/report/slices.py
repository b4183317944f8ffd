"""The section on the metrics of parts of a split: a table per column and task, beside the whole split's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ple_rec.html.markup import DASH, absent, table, text
from ple_rec.html.strips import Scale, axis_strip, dot_strip, scale_over
from ple_rec.text.units import metric_text
from ple_rec.train.report.lenient import count, entries
from ple_rec.train.report.meanings import meanings
from ple_rec.train.report.run_files import RunFiles
from ple_rec.train.results import (
    COLUMNS,
    FEW,
    FEW_OF_A_CLASS,
    Column,
    caution,
    mapping,
    number,
    present,
    slice_name,
    split_tasks,
)

_MANY_TABLES = 6  # more than this: one fold per column, the first open
_MAIN = ("auc", "rmse", "mse", "ne", "logloss")  # the first of these that is there is drawn
_GREATEST = {"auc": 1.0}  # what a drawn metric can be at most; none is below 0

Values = Mapping[str, Any]


class _Slice(NamedTuple):
    """One row: a value of the column, its metrics for one task, and why not to trust them (empty: do)."""

    label: str
    values: Values
    caution: str


def slices(run: RunFiles) -> str:
    """Metrics by the values of every column that the configuration names."""
    split, recorded = run.evaluated("slices")
    columns = [column for column in entries(recorded) if entries(column.get("values"))]
    if not columns:
        asked = mapping(run.config.get("evaluation")).get("slices")
        if asked:
            return absent("Not recorded.")
        return '<p class="absent">None asked for: <code>evaluation.slices</code> names the columns to slice by.</p>'
    whole = split_tasks(run.metrics, split)
    lead = (
        f"<p>On the {text(split)} split. The dashed line is the whole split, the dot a slice. Hollow, in grey: fewer "
        f"than {FEW} samples, or than {FEW_OF_A_CLASS} of a class; such figures say little."
    )
    others = any(entry.get("other") for column in columns for entry in entries(column.get("values")))
    lead += " (other): all values that are not shown.</p>" if others else "</p>"
    values = [mapping(entry.get("tasks")).values() for column in columns for entry in entries(column.get("values"))]
    shown = present(COLUMNS, [mapping(task) for of_value in values for task in of_value])
    lead += meanings({column.key: column.heading for column in shown})
    tasks = [_tasks(column) for column in columns]
    folded = sum(map(len, tasks)) > _MANY_TABLES
    parts: list[str] = []
    for column, names in zip(columns, tasks, strict=True):
        title = f"By {column.get('column', 'an unnamed column')}"
        tables = "".join(_task_table(column, name, whole.get(name, {})) for name in names)
        if folded:
            size = f"{len(entries(column.get('values')))} values, {len(names)} tasks"
            opened = "" if parts else " open"
            parts.append(f"<details{opened}><summary>{text(title)} <small>{size}</small></summary>{tables}</details>")
        else:
            parts.append(f"<h3>{text(title)}</h3>{tables}")
    return lead + "".join(parts)


def _tasks(column: Values) -> list[str]:
    names = (name for entry in entries(column.get("values")) for name in mapping(entry.get("tasks")))
    return list(dict.fromkeys(names))


def _task_table(column: Values, task: str, whole: Values) -> str:
    rows = [_slice(entry, task) for entry in entries(column.get("values"))]
    all_values = [whole, *(row.values for row in rows)]
    main = next((key for key in _MAIN if any(key in values for values in all_values)), None)
    shown = [c for c in present(COLUMNS, [row.values for row in rows]) if c.key != "samples"]
    shown.sort(key=lambda c: c.key != main)
    reference = number(whole.get(main)) if main else None
    scale = _scale(rows, main, reference)
    headings = [f'<th scope="col">{text(c.heading)}</th>' for c in shown]
    plot_head = f'<th class="plot" scope="col">{_axis(scale, reference)}</th>'
    head = [
        f'<th class="text" scope="col">{text(column.get("column", "value"))}</th><th scope="col">samples</th>',
        *headings[:1],
        plot_head,
        *headings[1:],
    ]
    body = [_row(row, shown, main, scale, reference) for row in rows]
    foot = _cells("whole split", whole, shown, "<td></td>")
    return f"<h4>{text(task)}</h4>{table(head, body, f'<tr>{foot}</tr>' if whole else '', plotted=True)}"


def _slice(entry: Values, task: str) -> _Slice:
    """A slice's row for one task; `samples` is the task's own count where it has one."""
    values = dict(mapping(mapping(entry.get("tasks")).get(task)))
    values.setdefault("samples", entry.get("samples"))
    return _Slice(_label(entry), values, caution(values))


def _label(entry: Values) -> str:
    name = text(slice_name(entry))
    return f"<i>{name}</i>" if entry.get("value") in (None, "") else name


def _scale(rows: Sequence[_Slice], main: str | None, reference: float | None) -> Scale | None:
    """An axis over the whole split and the slices that can be trusted, else over all."""
    known = [(row, value) for row in rows if main and (value := number(row.values.get(main))) is not None]
    kept = [value for row, value in known if not row.caution] or [value for _, value in known]
    if not kept:
        return None
    kept += [] if reference is None else [reference]
    return scale_over(kept, least=0.0, greatest=_GREATEST.get(main or "", math.inf))


def _axis(scale: Scale | None, reference: float | None) -> str:
    if scale is None:
        return ""
    digits = 3 if scale.high - scale.low >= 0.02 else 4
    ends = [(value, f"{value:.{digits}f}") for value in (scale.low, scale.high)]
    return axis_strip(scale, ends)


def _row(row: _Slice, shown: Sequence[Column], main: str | None, scale: Scale | None, reference: float | None) -> str:
    value = number(row.values.get(main)) if main else None
    plot = ""
    if scale is not None:
        name = "undefined" if value is None else f"{metric_text(value)}"
        name += "" if reference is None else f"; whole split {metric_text(reference)}"
        plot = dot_strip(scale, value, reference, name, faint=bool(row.caution))
    label = row.label + (f"<small>{row.caution}</small>" if row.caution else "")
    cells = _cells(label, row.values, shown, f'<td class="plot">{plot}</td>')
    kind = ' class="faint"' if row.caution else ""
    return f"<tr{kind}>{cells}</tr>"


def _cells(label: str, values: Values, shown: Sequence[Column], plot: str) -> str:
    cells = [f"<td>{_metric(column, values)}</td>" for column in shown]
    return (
        f'<th class="text" scope="row">{label}</th><td>{count(values.get("samples"))}</td>'
        f"{''.join(cells[:1])}{plot}{''.join(cells[1:])}"
    )


def _metric(column: Column, values: Values) -> str:
    value = number(values.get(column.key))
    return DASH if value is None else text(column.text(value))
