"""The section on how rows and labels change from day to day."""

from __future__ import annotations

from data_prep.stats.correlation import wilson
from data_prep.stats.page.plots import over_days, rows_over_days
from data_prep.stats.page.tasks import RARE
from data_prep.stats.page.view import View, percent
from data_prep.stats.page.view import figure as number
from ple_rec.html.markup import figure, table, text
from ple_rec.text.units import short_count


def days(view: View) -> str:
    """Panels of rows and of every task's mean label, and the figures; empty where rows have no time."""
    found = view.stats["days"]
    if not found:
        return ""
    names = [day["day"] for day in found]
    rows = rows_over_days(names, [day["rows"] for day in found], _count, "Rows by day")
    keys = "".join(f'<span class="{split}">{split}</span>' for split in view.splits())
    panels = [figure("Rows", "", rows)]
    for task in view.schema.tasks:
        each = [day["tasks"][task.name] for day in found]
        binary = task.kind == "binary"
        intervals = [wilson(e["positives"], e["samples"]) if binary and e["samples"] else None for e in each]
        show = _percent if binary else _plain
        least = min(e["samples"] for e in each)
        note = f"{'rate' if binary else 'mean'}, {short_count(least)} samples a day or more"
        panels.append(figure(task.name, note, over_days(names, [e["mean"] for e in each], intervals, show, task.name)))
    lead = "<p>Local days, all splits together. Bars are 95 % intervals (Wilson) of rates.</p>"
    legend = f'<p class="legend blocks">{keys}</p>'
    return f'{lead}{legend}<div class="panels">{"".join(panels)}</div>{_figures(view)}'


def _count(value: float) -> str:
    digits, _, unit = short_count(value).partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {unit}".strip()


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _figures(view: View) -> str:
    splits = view.splits()
    head = ['<th class="text" scope="col">day</th>', *(f'<th scope="col">{split}</th>' for split in splits)]
    for task in view.schema.tasks:
        head.append(f'<th scope="col">{text(task.name)}<br>samples</th><th scope="col">mean</th>')
    body = []
    for day in view.stats["days"]:
        cells = "".join(f"<td>{day['rows'].get(split, 0):,}</td>" for split in splits)
        for task in view.schema.tasks:
            each = day["tasks"][task.name]
            mean = number(each["mean"])
            if task.kind == "binary":
                mean = percent(each["mean"])
                if each["positives"] < RARE:
                    mean += f" <small>{each['positives']:,}</small>"
            cells += f"<td>{each['samples']:,}</td><td>{mean}</td>"
        body.append(f'<tr><th class="text" scope="row">{day["day"]}</th>{cells}</tr>')
    note = f'<p class="absent">The small figure is the number of positives, where it is below {RARE:,}.</p>'
    return f"<details><summary>{len(body)} days in figures</summary>{table(head, body)}{note}</details>"
