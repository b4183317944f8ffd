"""The section on how the labels of the tasks go together, and how that shifts between sub-populations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.stats.correlation import ENOUGH, ENOUGH_OF_A_CLASS, comparable
from data_prep.stats.page.plots import Estimate, estimates
from data_prep.stats.page.view import View, cut, percent, signed
from data_prep.stats.page.view import figure as number
from ple_rec.html.markup import absent, figure, table, text
from ple_rec.html.strips import Scale, axis_strip, dots_strip, scale_over

_DRAWN, _LISTED, _VALUES = 3, 12, 12  # shifts that are drawn, and listed before the fold; values of a drawing
_LEAD = (
    "<p>Where the labels of two tasks go together in one part of the rows and not, or less, in another, no one mixture "
    "of shared experts suits every sample: this is why PLE gives each task experts of its own and lets a gate weigh "
    "them sample by sample.</p>"
)

Entry = Mapping[str, Any]


def correlation(view: View) -> str:
    """Matrices of the splits, then the shifts, the largest first."""
    tasks = [task.name for task in view.schema.tasks]
    if len(tasks) < 2:
        return ""
    known = [abs(e["r"]) for split in view.splits() for e in view.stats["correlation"][split] if e["r"] is not None]
    full = _full(max(known, default=1.0))
    maps = "".join(
        f"<figure><figcaption>{split}</figcaption>{_matrix(view.stats['correlation'][split], tasks, full)}</figure>"
        for split in view.splits()
    )
    ramp = f'<p class="ramp diverging"><span>&minus;{full:g}</span><i></i><span>{full:g}</span></p>'
    return f'{_LEAD}<h3>Pearson correlation</h3>{ramp}<div class="matrices">{maps}</div>{_shifts(view)}'


def _full(greatest: float) -> float:
    """The least of 1, 2, 5 times a power of ten that no |r| exceeds."""
    power = 10.0 ** math.floor(math.log10(greatest)) if greatest else 1.0
    return min(1.0, next(step * power for step in (1, 2, 5, 10) if step * power >= greatest * (1 - 1e-9)))


def _matrix(found: Sequence[Entry], tasks: Sequence[str], full: float) -> str:
    pairs = {(entry["a"], entry["b"]): entry for entry in found}
    head = '<th class="text" scope="col"></th>' + "".join(f'<th scope="col">{text(a)}</th>' for a in tasks[:-1])
    body = ""
    for row, b in enumerate(tasks[1:], start=1):
        cells = "".join(_cell(pairs[a, b], full) for a in tasks[:row])
        cells += '<td class="unread"></td>' * (len(tasks) - 1 - row)
        body += f'<tr><th scope="row">{text(b)}</th>{cells}</tr>'
    return f'<div class="scroll"><table class="heat"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(entry: Entry, full: float) -> str:
    r = entry["r"]
    title = text(
        f"{entry['a']} and {entry['b']}: {entry['samples']:,} samples, {entry['fewest']:,} of the rarest class"
    )
    if r is None:
        return f'<td class="unread" title="{title}">&ndash;</td>'
    share = 100 * min(abs(r) / full, 1.0)
    kind = ' class="negative"' * (r < 0)
    return f'<td{kind} style="--w:{share:.1f}%" title="{title}">{signed(r)}</td>'


def _shifts(view: View) -> str:
    found = [(column, shift) for column in view.stats["slices"] for shift in column["shift"]]
    found.sort(key=lambda pair: (-pair[1]["interval"][0], pair[0]["column"], pair[1]["a"], pair[1]["b"]))
    heading = "<h3>How it shifts between sub-populations of train</h3>"
    if not found:
        why = "no column was sliced" if not view.stats["slices"] else "no two parts have enough samples"
        return heading + absent(f"Not known: {why}.")
    note = (
        f"<p>The greatest less the least r among the values of a column with at least {ENOUGH} samples in both spaces, "
        f"{ENOUGH_OF_A_CLASS} of each class. Bars are 95 % intervals of a value (Fisher's z; approximate where labels "
        "are rare); the interval of a shift is wider, since its two ends are the extremes of many. About one of twenty "
        "shifts is above 0 by chance, of those that stand here too. The surest come first, by its lower end. The "
        "dashed line is all of train, a dash a label that does not vary.</p>"
    )
    drawn = "".join(_drawing(view, column, shift) for column, shift in found[:_DRAWN])
    every = [e["r"] for column, shift in found for e in _entries(column, shift) if comparable(e)]
    scale = scale_over([0.0, *every], least=-1.0, greatest=1.0)
    axis = axis_strip(scale, [(end, f"{end:.2f}") for end in (scale.low, scale.high)])
    head = [
        '<th class="text" scope="col">tasks</th><th class="text" scope="col">by</th>'
        f'<th class="plot" scope="col">{axis}</th><th scope="col">shift</th><th class="text" scope="col">95 %</th>'
        '<th class="text" scope="col">least</th><th class="text" scope="col">greatest</th>'
    ]
    body = [_row(view, column, shift, scale) for column, shift in found]
    content = table(head, body[:_LISTED], plotted=True)
    if len(body) > _LISTED:
        rest = table(head, body[_LISTED:], plotted=True)
        content += f"<details><summary>{len(body) - _LISTED} smaller shifts</summary>{rest}</details>"
    return f'{heading}{note}<div class="panels">{drawn}</div>{content}{_by_column(view)}'


def _entries(column: Entry, shift: Entry) -> list[Entry]:
    return [next(e for e in v["correlation"] if (e["a"], e["b"]) == (shift["a"], shift["b"])) for v in column["values"]]


def _whole(view: View, shift: Entry) -> float | None:
    found = view.stats["correlation"]["train"]
    r: float | None = next(e["r"] for e in found if (e["a"], e["b"]) == (shift["a"], shift["b"]))
    return r


def _drawing(view: View, column: Entry, shift: Entry) -> str:
    kept = [
        Estimate(view.value(column["column"], value["value"]), entry["r"], entry["samples"])
        for value, entry in zip(column["values"], _entries(column, shift), strict=True)
        if comparable(entry)
    ]
    chosen = sorted(kept, key=lambda e: e.r)
    if len(chosen) > _VALUES:
        chosen = [*chosen[: _VALUES // 2], *chosen[-_VALUES // 2 :]]
    caption = f"{shift['a']} and {shift['b']} by {column['column']}"
    note = f"shift {shift['shift']:.3f}" + (f", {_VALUES} of {len(kept)} values" if len(kept) > _VALUES else "")
    return figure(caption, note, estimates(chosen, _whole(view, shift), caption))


def _row(view: View, column: Entry, shift: Entry, scale: Scale) -> str:
    entries = _entries(column, shift)
    values = [entry["r"] for entry in entries if comparable(entry)]
    ends = {value["value"]: entry["r"] for value, entry in zip(column["values"], entries, strict=True)}
    low, high = (
        f"{text(cut(view.value(column['column'], shift[end]), 24))} <small>{signed(ends[shift[end]])}</small>"
        for end in ("low", "high")
    )
    a, b = shift["interval"]
    strip = dots_strip(
        scale, values, _whole(view, shift), f"{len(values)} values from {min(values):.3f} to {max(values):.3f}"
    )
    return (
        f'<tr><th class="text" scope="row">{text(shift["a"])} and {text(shift["b"])}</th>'
        f'<td class="text">{text(column["column"])}</td><td class="plot">{strip}</td><td>{shift["shift"]:.3f}</td>'
        f'<td class="text"><small>{signed(a)} to {signed(b)}</small></td><td class="text">{low}</td>'
        f'<td class="text">{high}</td></tr>'
    )


def _by_column(view: View) -> str:
    """Every slice in figures, a fold for each column."""
    kinds = {task.name: task.kind for task in view.schema.tasks}
    folds = ""
    for column in view.stats["slices"]:
        if not column["values"]:
            continue
        pairs = [(e["a"], e["b"]) for e in column["values"][0]["correlation"]]
        head = [
            f'<th class="text" scope="col">{text(column["column"])}</th><th scope="col">rows</th>',
            *(f'<th scope="col">{text(name)}</th>' for name in kinds),
            *(f'<th scope="col">r {text(a)},<br>{text(b)}</th>' for a, b in pairs),
        ]
        body = []
        for value in column["values"]:
            means = "".join(
                f"<td>{percent(value['means'][name]) if kind == 'binary' else number(value['means'][name])}</td>"
                for name, kind in kinds.items()
            )
            r = "".join(
                f'<td class="{"" if comparable(e) else "few"}">{signed(e["r"])}</td>' for e in value["correlation"]
            )
            name = text(cut(view.value(column["column"], value["value"]), 32))
            body.append(f'<tr><th class="text" scope="row">{name}</th><td>{value["samples"]:,}</td>{means}{r}</tr>')
        size = f"{len(body)} values"
        summary = f"<summary>By {text(column['column'])} <small>{size}</small></summary>"
        folds += f"<details>{summary}{table(head, body)}</details>"
    return f"<h3>Means and correlations of every part</h3>{folds}" if folds else ""
