"""Sections of the statistics page on sparse and dense columns, and the charts (SVG) of all its sections."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from data_prep.stats.correlation import fisher
from data_prep.stats.page.view import View, figure, percent, shorten
from ple_rec.config.schema import DenseFeature, SparseFeature
from ple_rec.reports.drawing import Scale, drawing, linear_scale

_WIDTH, _HEIGHT = 340, 150  # CSS pixels of a chart over days.
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 8, 24  # CSS pixels of the margins of such a chart.
_ROW_HEIGHT, _NAME_WIDTH = 19, 136  # CSS pixels in a chart of estimates: height of a row, and width of the names.


class Estimate(NamedTuple):
    """Correlation r of two labels in a slice of the rows, and the slice's name and number of samples."""

    name: str
    r: float
    samples: int


def ticks(low: float, high: float, max_ticks: int = 4) -> list[float]:
    """Return round numbers from `low` to `high`, at most `max_ticks` + 1. `high` must be greater than `low`."""
    step = 10.0 ** math.floor(math.log10((high - low) / max_ticks))
    step = next(m * step for m in (1, 2, 2.5, 5, 10, 20, 25, 50) if (high - low) / (m * step) <= max_ticks)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def draw_estimates(slices: Sequence[Estimate], overall: float | None, name: str) -> Markup:
    """Draw a row for each slice, with its name, a dot at r and a bar for the 95 % interval.

    Args:
        slices: Slices, from top to bottom.
        overall: Correlation in all rows, which a dashed vertical line marks; None for no line.
        name: Name of the chart for screen readers.
    """
    ends = [end for e in slices for end in fisher(e.r, e.samples)]
    scale = linear_scale([*ends, *([] if overall is None else [overall])], least=-1.0, greatest=1.0)
    width, height = _WIDTH - _NAME_WIDTH - 8, len(slices) * _ROW_HEIGHT

    def x(value: float) -> float:
        return _NAME_WIDTH + width * (min(max(value, scale.low), scale.high) - scale.low) / (scale.high - scale.low)

    content = ""
    for tick in ticks(scale.low, scale.high):
        content += f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{height}"/>'
        content += f'<text x="{x(tick):.1f}" y="{height + 15}" text-anchor="middle">{_number(tick)}</text>'
    if overall is not None:
        content += f'<line class="whole" x1="{x(overall):.1f}" x2="{x(overall):.1f}" y1="0" y2="{height}"/>'
    for i, e in enumerate(slices):
        y = (i + 0.5) * _ROW_HEIGHT
        low, high = fisher(e.r, e.samples)
        title = escape(f"{e.name}: r = {e.r:.3f}, 95 % from {low:.3f} to {high:.3f}, {e.samples:,} samples")
        content += (
            f'<g><title>{title}</title><text class="name" x="{_NAME_WIDTH - 9}" y="{y + 4:.1f}" text-anchor="end">'
            f'{escape(shorten(e.name, 18))}</text><line class="interval" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" '
            f'y2="{y}"/><circle class="dot" cx="{x(e.r):.1f}" cy="{y}" r="3.5"/></g>'
        )
    return drawing("chart", _WIDTH, height + 20, name, content)


def draw_over_days(
    days: Sequence[str],
    values: Sequence[float | None],
    intervals: Sequence[tuple[float, float] | None],
    show: Callable[[float], str],
    name: str,
) -> Markup:
    """Draw a line of values over days, with a bar for each interval.

    If there are at most 62 values (two months), each also has a dot. Nothing is drawn if no day has a value.

    Args:
        days: Dates, as texts.
        values: Value of each day; None for no value.
        intervals: Confidence interval of each value; None for no interval.
        show: Function that formats a value.
        name: Name of the chart for screen readers.
    """
    known = [value for value in values if value is not None]
    ends = [end for pair in intervals if pair is not None for end in pair]
    if not known:
        return Markup()
    scale = linear_scale([*known, *ends], least=0.0 if min(known) >= 0 else -math.inf)
    x, y, content = _frame(days, scale, show)
    points = [(x(i), y(value)) for i, value in enumerate(values) if value is not None]
    for i, pair in enumerate(intervals):
        if pair is not None:
            content += (
                f'<line class="interval" x1="{x(i):.1f}" x2="{x(i):.1f}" y1="{y(pair[0]):.1f}" y2="{y(pair[1]):.1f}"/>'
            )
    content += f'<polyline class="line" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
    dots = [(i, value) for i, value in enumerate(values) if value is not None]
    content += "".join(
        f'<circle class="dot" cx="{x(i):.1f}" cy="{y(value):.1f}" r="3">'
        f"<title>{days[i]}: {show(value)}</title></circle>"
        for i, value in dots
        if len(dots) <= 62
    )
    return drawing("chart", _WIDTH, _HEIGHT, name, content)


def draw_rows_over_days(
    days: Sequence[str], rows: Sequence[Mapping[str, int]], show: Callable[[float], str], name: str
) -> Markup:
    """Draw a bar of the number of rows of each day, divided into the splits.

    Args:
        days: Dates, as texts.
        rows: Number of rows of each day, by split.
        show: Function that formats a number of rows.
        name: Name of the chart for screen readers.
    """
    scale = Scale(0.0, 1.06 * max(sum(each.values()) for each in rows))
    x, y, content = _frame(days, scale, show)
    width = max(1.5, 0.72 * (_WIDTH - _LEFT - _RIGHT) / len(days))
    for i, each in enumerate(rows):
        below = 0
        for split, count in each.items():
            top, bottom = y(below + count), y(below)
            content += (
                f'<rect class="{split}" x="{x(i) - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{bottom - top:.1f}"><title>{days[i]}, {split}: {count:,} rows</title></rect>'
            )
            below += count
    return drawing("chart", _WIDTH, _HEIGHT, name, content)


def _frame(
    days: Sequence[str], scale: Scale, show: Callable[[float], str]
) -> tuple[Callable[[int], float], Callable[[float], float], str]:
    """Return two functions, from a day's index to its x and from a value to its y, and the SVG of the axes."""
    step = (_WIDTH - _LEFT - _RIGHT) / len(days)

    def x(i: int) -> float:
        return _LEFT + (i + 0.5) * step

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - scale.low) / (scale.high - scale.low)

    content = ""
    for tick in ticks(scale.low, scale.high):
        content += f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        content += f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{show(tick)}</text>'
    # Only every so many days are labelled, since a label takes 46 pixels.
    every = max(1, math.ceil(len(days) / max(1, int((_WIDTH - _LEFT) / 46))))
    for i in range(0, len(days), every):
        content += f'<text x="{x(i):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{days[i][5:]}</text>'
    return x, y, content


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-", "\u2212") if abs(value) > 1e-9 else "0"


_BINS = 38  # Bins of a histogram.
_MAX_UNFOLDED = 12  # With more sparse columns, the page hides their frequent values until a click.


def sparse_columns(view: View) -> dict[str, Any] | None:
    """Return what the template shows of the sparse columns; None if the schema has none."""
    columns = view.schema.sparse
    if not columns:
        return None
    return {
        "bags": any(feature.bag for feature in columns),
        "rows": [_sparse_row(view, feature) for feature in columns],
        "frequent_values": [(feature.name, _frequent_values(view, feature)) for feature in columns],
        "folded": len(columns) > _MAX_UNFOLDED,
    }


def _sparse_row(view: View, feature: SparseFeature) -> dict[str, Any]:
    """Return what the template shows of one sparse column."""
    stats = view.stats["columns"][feature.name]
    train = stats["train"]
    return {
        "name": feature.name,
        "table": "" if feature.table == feature.name else feature.table,
        "table_rows": view.schema.table_rows()[feature.table],
        "rows_hit": train["hit"],  # Distinct rows of the table that training looks up.
        "unknown": [percent(stats[split]["oov_rate"]) for split in view.splits()],
        "top_share": sum(share or 0.0 for _, _, share in train["top"]),
        "mean_length": figure(train["mean_length"]) if feature.bag else "",
        "empty": percent(train["empty"] / max(1, train["rows"])) if feature.bag else "",
    }


def _frequent_values(view: View, feature: SparseFeature) -> list[dict[str, Any]]:
    # Row of the table, number of its look-ups, and their share of all look-ups, the most frequent row first.
    top = view.stats["columns"][feature.name]["train"]["top"]
    max_share = max((share for _, _, share in top), default=1.0) or 1.0
    return [
        {
            "name": shorten(view.value(feature.name, row), 40),
            "share": percent(share, digits=1),
            "width": f"{100 * share / max_share:.1f}",
            "title": f"row {row}: {count:,} look-ups",
        }
        for row, count, share in top
    ]


def dense_columns(view: View) -> list[dict[str, Any]] | None:
    """Return what the template shows of the dense columns; None if the schema has none."""
    return [_dense_row(view, column) for column in view.schema.dense] or None


def _dense_row(view: View, column: DenseFeature) -> dict[str, Any]:
    stats = view.stats["columns"][column.name]
    train = stats["train"]
    figures = [
        train["min"],
        *_pick_quantiles(train["quantiles"], (0.01, 0.5, 0.99)),
        train["max"],
        train["mean"],
        train["std"],
    ]
    heights, description = _histogram(column.name, train["quantiles"])
    return {
        "name": column.name,
        "normaliser": column.normaliser,
        "nulls": [percent(stats[split]["nulls"] / max(1, stats[split]["rows"])) for split in view.splits()],
        "heights": heights,
        "description": description,
        "figures": [figure(value) for value in figures],
    }


def vector_columns(view: View) -> list[dict[str, Any]] | None:
    """Return the values of the template for each vector feature; None if the schema has none."""
    return [
        {
            "name": vector.name,
            "width": vector.width,
            "normaliser": vector.normaliser,
            "table_rows": None if vector.table is None else vector.table.rows,
            "missing": [percent(stats[split]["missing"] / max(1, stats[split]["rows"])) for split in view.splits()],
        }
        for vector in view.schema.vectors
        for stats in [view.stats["columns"][vector.name]]
    ] or None


def history_columns(view: View) -> list[dict[str, Any]] | None:
    """Return the values of the template for each history; None if the schema has none."""
    return [
        {
            "name": history.name,
            "items": ", ".join(item.feature for item in history.items),
            "length": history.length,
            "events": history.events,
            "mean_length": [figure(stats[split]["mean_length"]) for split in view.splits()],
            "empty": [percent(stats[split]["empty"] / max(1, stats[split]["rows"])) for split in view.splits()],
        }
        for history in view.schema.histories
        for stats in [view.stats["columns"][history.name]]
    ] or None


def _pick_quantiles(quantiles: Sequence[float] | None, shares: Sequence[float]) -> list[float | None]:
    return [None if quantiles is None else quantiles[round(share * (len(quantiles) - 1))] for share in shares]


def _histogram(name: str, quantiles: Sequence[float] | None) -> tuple[list[int], str]:
    """Return the heights of the bars of a histogram, and a text about its range; no heights if nothing can be drawn.

    The height of a bar is the number of quantiles in its bin. The range leaves out the lowest and the highest 0.5 % of
    the rows.
    """
    if quantiles is None:
        return [], "no value"
    low, high = (quantiles[round(share * (len(quantiles) - 1))] for share in (0.005, 0.995))
    if low == high:
        return [], f"{figure(low)} in 99 % or more"
    counts = [0] * _BINS
    for value in quantiles:
        if low <= value <= high:
            counts[min(_BINS - 1, int(_BINS * ((value - low) / (high - low))))] += 1
    return counts, f"{name} from {low:.4g} to {high:.4g}"
