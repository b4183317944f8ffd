"""The section on what training did to the embedding tables: rows never touched, norms of rows, skew of look-ups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.html.markup import DASH, absent, table, text
from ple_rec.html.strips import Scale, axis_strip, range_strip, scale_over, share_strip
from ple_rec.text.units import short_count
from ple_rec.train.report.lenient import count, entries
from ple_rec.train.report.run_files import RunFiles
from ple_rec.train.results import mapping, number

_UNTOUCHED = 0.5  # share of rows never touched above which a table is called odd
_SKEWED, _SKEWED_ROWS = 0.9, 1000  # share of look-ups on 1 % of the rows that is called odd, from so many rows on
_FAR = 10  # times the 99 % quantile, above which the greatest norm is called odd
_FEW_ROWS = 100  # up to so many the 99 % quantile, being interpolated, is partly the greatest norm: the median serves
_LOGARITHMIC = 8  # ratio of norms above which their axis is logarithmic
_MANY_TABLES, _WORST = 24, 5  # more tables than this are folded away, but for the worst
_MANY_WARNINGS = 12  # more than this are folded away

Entry = Mapping[str, Any]


def table_health(run: RunFiles) -> str:
    """A row per table, the largest first, under what is odd about any of them."""
    tables = sorted(entries(run.metrics.get("table_health")), key=lambda entry: -(number(entry.get("rows")) or 0))
    if not tables:
        why = "was written by an earlier version, or has no tables" if run.metrics else "did not end"
        return absent(f"Not recorded: the run {why}.")
    lead = (
        "<p>Never touched: rows that still hold their initial values; row 0, for unknown ids, is not counted. Norm of "
        "rows: the thin line spans 1 to 99 % of the rows, the thick one 10 to 90 %, and the tick is the median. "
        "Top 1 %: the share of training look-ups that fall on the most frequent hundredth of the rows.</p>"
    )
    scale = _scale(tables)
    head = _head(scale)
    rows = [_row(entry, scale) for entry in tables]
    if len(tables) <= _MANY_TABLES:
        content = table(head, rows, plotted=True)
    else:
        worst = sorted(range(len(tables)), key=lambda index: _badness(tables[index]), reverse=True)[:_WORST]
        content = f"<h3>The {_WORST} to look at first</h3>{table(head, [rows[index] for index in worst], plotted=True)}"
        content += f"<details><summary>All {len(tables)} tables</summary>{table(head, rows, plotted=True)}</details>"
    return lead + _oddities(tables) + content + _unrecorded(tables)


def _head(scale: Scale | None) -> list[str]:
    return [
        '<th class="text" scope="col">table</th><th scope="col">rows</th><th scope="col">dim</th>',
        '<th scope="col" colspan="2">never touched</th>',
        f'<th class="plot" scope="col">norm of rows{_axis(scale)}</th>',
        '<th scope="col">median</th><th scope="col">1&ndash;99 %</th>',
        '<th scope="col">look-ups</th><th scope="col" colspan="2">top 1 %</th>',
    ]


def _badness(entry: Entry) -> tuple[float, ...]:
    """Orders tables, the worst last: by their warnings, rows never touched, and how far the longest row is off."""
    return len(_odd(entry)), _untouched(entry) or 0.0, _longest(entry)[1]


def _quantile(entry: Entry, share: float) -> float | None:
    """One quantile of a table's norms; None where it is not recorded."""
    for key, value in mapping(entry.get("norms")).items():
        try:
            if math.isclose(float(key), share):
                return number(value)
        except ValueError:
            continue
    return None


def _scale(tables: Sequence[Entry]) -> Scale | None:
    """The axis of all norms: from zero, or logarithmic where they differ much; None where none is recorded."""
    ends = [value for entry in tables for share in (0.01, 0.99) if (value := _quantile(entry, share)) is not None]
    if not ends:
        return None
    positive = [value for value in ends if value > 0]
    if positive and max(positive) > _LOGARITHMIC * min(positive):
        return Scale(min(positive) / 1.25, max(positive) * 1.25, logarithmic=True)
    return scale_over([0.0, *ends], least=0.0)


def _axis(scale: Scale | None) -> str:
    if scale is None:
        return ""
    if not scale.logarithmic:
        return axis_strip(scale, ((value, f"{value:.2g}") for value in (0.0, scale.high)))
    powers = range(math.floor(math.log10(scale.low)), math.floor(math.log10(scale.high)) + 1)
    steps = (1, 2, 5) if scale.high < 100 * scale.low else (1,)
    ticks = [tick for power in powers for step in steps if scale.low <= (tick := step * 10.0**power) <= scale.high]
    return axis_strip(scale, ((tick, f"{tick:g}") for tick in ticks[:: max(1, math.ceil(len(ticks) / 4))]))


def _row(entry: Entry, scale: Scale | None) -> str:
    untouched, top = _untouched(entry), number(entry.get("top_share"))
    return (
        f'<tr><th class="text" scope="row">{text(entry.get("table", ""))}</th>'
        f"<td>{count(entry.get('rows'))}</td><td>{count(entry.get('dim'))}</td>"
        f"<td>{count(entry.get('never_touched'))}</td>{_share(untouched, 'never touched')}"
        f"{_norms(entry, scale)}<td>{_lookups(entry)}</td>"
        f"{_share(top, 'of look-ups on the top 1 % of rows', bar=True)}</tr>"
    )


def _untouched(entry: Entry) -> float | None:
    rows, untouched = number(entry.get("rows")), number(entry.get("never_touched"))
    return None if rows is None or untouched is None or rows < 2 else untouched / (rows - 1)


def _share(share: float | None, name: str, *, bar: bool = False) -> str:
    if share is None:
        return f'<td class="share">{DASH if bar else ""}</td>' + "<td></td>" * bar
    shown = f"{100 * share:.1f} %"
    strip = f'<td class="plot">{share_strip(share, f"{shown} {name}")}</td>' if bar else ""
    return f'{strip}<td class="share">{shown}</td>'


def _lookups(entry: Entry) -> str:
    found = number(entry.get("lookups"))
    return DASH if found is None else text(short_count(found))


def _norms(entry: Entry, scale: Scale | None) -> str:
    shares = (0.01, 0.1, 0.5, 0.9, 0.99)
    found = [value for share in shares if (value := _quantile(entry, share)) is not None]
    if scale is None or len(found) < len(shares):
        why = "not finite" if _not_finite(entry) else "not recorded"
        return f'<td class="plot absent">{why}</td><td>{DASH}</td><td>{DASH}</td>'
    low, lower, middle, upper, high = found
    least, greatest = (_quantile(entry, share) for share in (0.0, 1.0))
    name = f"norms of {entry.get('table', '')}: 1 % {low:.3g}, 10 % {lower:.3g}, median {middle:.3g}"
    name += f", 90 % {upper:.3g}, 99 % {high:.3g}"
    name += "" if least is None or greatest is None else f"; least {least:.3g}, greatest {greatest:.3g}"
    return (
        f'<td class="plot">{range_strip(scale, (low, high), (lower, upper), middle, name)}</td>'
        f"<td>{_digits(middle)}</td><td>{_digits(low)}&ndash;{_digits(high)}</td>"
    )


def _digits(norm: float) -> str:
    """Three significant digits, zeros at the end kept, so that a column lines up: `0.0200`."""
    return f"{norm:#.3g}".removesuffix(".") if norm < 1000 else f"{norm:.3g}"


def _oddities(tables: Sequence[Entry]) -> str:
    """What a person should know about some tables, in plain words; empty where nothing is odd."""
    lines = [
        f"<li><strong>{text(entry.get('table', ''))}</strong>: {text(odd)}</li>"
        for entry in tables
        for odd in _odd(entry)
    ]
    if not lines:
        return ""
    first, rest = lines[:_MANY_WARNINGS], lines[_MANY_WARNINGS:]
    content = f"<ul>{''.join(first)}</ul>"
    if rest:
        content += f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>"
    return f'<div class="notice"><p>Worth a look</p>{content}</div>'


def _longest(entry: Entry) -> tuple[str, float]:
    """What the greatest norm is compared with, in words, and how many times that it is; 0 where it is not known."""
    few = (number(entry.get("rows")) or math.inf) <= _FEW_ROWS
    usual, greatest = _quantile(entry, 0.5 if few else 0.99), _quantile(entry, 1.0)
    words = "the median of its rows" if few else "what 99 % of its rows stay below"
    return words, greatest / usual if usual and greatest is not None else 0.0


def _odd(entry: Entry) -> list[str]:
    found, untouched, top = [], _untouched(entry), number(entry.get("top_share"))
    greatest, (usual, times) = _quantile(entry, 1.0), _longest(entry)
    if number(entry.get("lookups")) == 0:
        found.append("the training split never looks it up.")
    elif untouched is not None and untouched >= 1:
        found.append("no row was trained; every one still holds its initial values.")
    elif untouched is not None and untouched > _UNTOUCHED:
        found.append(
            f"{100 * untouched:.0f} % of its rows were never touched; they hold random initial values. A higher "
            "frequency threshold in data preparation, or longer training, would leave fewer."
        )
    if _not_finite(entry):
        found.append("some rows are not finite.")
    elif greatest == 0:
        found.append("every row is zero.")
    elif greatest is not None and times > _FAR:
        found.append(f"its longest row has norm {greatest:.3g}, {times:.0f} times {usual}.")
    if top is not None and top > _SKEWED and (number(entry.get("rows")) or 0) >= _SKEWED_ROWS:
        found.append(f"{100 * top:.0f} % of its look-ups fall on 1 % of the rows; most rows see few samples.")
    return found


def _not_finite(entry: Entry) -> bool:
    """Whether a quantile of the norms is recorded as undefined: a row that is not finite stands there."""
    return any(number(value) is None for value in mapping(entry.get("norms")).values())


def _unrecorded(tables: Sequence[Entry]) -> str:
    """Which figures are dashes, and why."""
    reasons = {
        "never_touched": "never touched (not compared with the initial values)",
        "norms": "norms",
        "lookups": "look-ups and top 1 % (the dataset has no counts for the table's vocabulary)",
    }
    missing = [words for key, words in reasons.items() if any(entry.get(key) is None for entry in tables)]
    return absent(f"\u2013 not recorded: {'; '.join(missing)}.") if missing else ""
