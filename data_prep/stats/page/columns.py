"""Sections of the statistics page on columns, and its charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from data_prep.stats.correlation import fisher
from data_prep.stats.page.view import View, cut, figure, percent
from ple_rec.config.schema import DenseFeature, SparseFeature
from ple_rec.reports.drawing import Scale, drawing, scale_over

_WIDTH, _HEIGHT = 340, 150  # CSS pixels of a chart over days.
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 8, 24
_LINE, _NAMES = 19, 136  # CSS pixels in a chart of estimates: height of a line, and width of the names.


class Estimate(NamedTuple):
    """Correlation in a part of the rows."""

    name: str
    r: float
    samples: int


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return at most `most` round numbers between two ends."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * step for m in (1, 2, 2.5, 5, 10, 20, 25, 50) if (high - low) / (m * step) <= most)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def estimates(parts: Sequence[Estimate], whole: float | None, name: str) -> Markup:
    """Draw a line for each part: its name, r as a dot, its 95 % interval as a bar; a dashed line at r of the whole."""
    ends = [end for e in parts for end in fisher(e.r, e.samples)]
    scale = scale_over([*ends, *([] if whole is None else [whole])], least=-1.0, greatest=1.0)
    width, height = _WIDTH - _NAMES - 8, len(parts) * _LINE

    def x(value: float) -> float:
        return _NAMES + width * (min(max(value, scale.low), scale.high) - scale.low) / (scale.high - scale.low)

    content = ""
    for tick in ticks(scale.low, scale.high):
        content += f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{height}"/>'
        content += f'<text x="{x(tick):.1f}" y="{height + 15}" text-anchor="middle">{_number(tick)}</text>'
    if whole is not None:
        content += f'<line class="whole" x1="{x(whole):.1f}" x2="{x(whole):.1f}" y1="0" y2="{height}"/>'
    for line, e in enumerate(parts):
        y = (line + 0.5) * _LINE
        low, high = fisher(e.r, e.samples)
        title = escape(f"{e.name}: r = {e.r:.3f}, 95 % from {low:.3f} to {high:.3f}, {e.samples:,} samples")
        content += (
            f'<g><title>{title}</title><text class="name" x="{_NAMES - 9}" y="{y + 4:.1f}" text-anchor="end">'
            f'{escape(cut(e.name, 18))}</text><line class="interval" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" '
            f'y2="{y}"/><circle class="dot" cx="{x(e.r):.1f}" cy="{y}" r="3.5"/></g>'
        )
    return drawing("chart", _WIDTH, height + 20, name, content)


def over_days(
    days: Sequence[str],
    values: Sequence[float | None],
    intervals: Sequence[tuple[float, float] | None],
    show: Callable[[float], str],
    name: str,
) -> Markup:
    """Draw a line over days, with a dot for each value and a bar for its interval, if it has one."""
    known = [value for value in values if value is not None]
    ends = [end for pair in intervals if pair is not None for end in pair]
    if not known:
        return Markup()
    scale = scale_over([*known, *ends], least=0.0 if min(known) >= 0 else -math.inf)
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


def rows_over_days(
    days: Sequence[str], rows: Sequence[Mapping[str, int]], show: Callable[[float], str], name: str
) -> Markup:
    """Draw a bar for each day, divided into the splits."""
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
    step = (_WIDTH - _LEFT - _RIGHT) / len(days)

    def x(i: int) -> float:
        return _LEFT + (i + 0.5) * step

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - scale.low) / (scale.high - scale.low)

    content = ""
    for tick in ticks(scale.low, scale.high):
        content += f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        content += f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{show(tick)}</text>'
    every = max(1, math.ceil(len(days) / max(1, int((_WIDTH - _LEFT) / 46))))
    for i in range(0, len(days), every):
        content += f'<text x="{x(i):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{days[i][5:]}</text>'
    return x, y, content


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-", "\u2212") if abs(value) > 1e-9 else "0"


_BINS = 38  # Bins of a histogram.
_MAX_UNFOLDED = 12  # With more sparse columns, the page folds their frequent values.


def sparse_columns(view: View) -> dict[str, Any] | None:
    """Return the sparse columns; None if there are none."""
    columns = view.schema.sparse
    if not columns:
        return None
    return {
        "bags": any(feature.bag for feature in columns),
        "rows": [_sparse_row(view, feature) for feature in columns],
        "cards": [(feature.name, _frequent(view, feature)) for feature in columns],
        "folded": len(columns) > _MAX_UNFOLDED,
    }


def _sparse_row(view: View, feature: SparseFeature) -> dict[str, Any]:
    stats = view.stats["columns"][feature.name]
    train = stats["train"]
    return {
        "name": feature.name,
        "table": "" if feature.table == feature.name else feature.table,
        "rows": view.schema.table_rows()[feature.table],
        "hit": train["hit"],
        "unknown": [percent(stats[split]["oov_rate"]) for split in view.splits()],
        "top": sum(share or 0.0 for _, _, share in train["top"]),
        "length": figure(train["mean_length"]) if feature.bag else "",
        "empty": percent(train["empty"] / max(1, train["rows"])) if feature.bag else "",
    }


def _frequent(view: View, feature: SparseFeature) -> list[dict[str, Any]]:
    top = view.stats["columns"][feature.name]["train"]["top"]
    most = max((share for _, _, share in top), default=1.0) or 1.0
    return [
        {
            "name": cut(view.value(feature.name, row), 40),
            "share": percent(share, digits=1),
            "width": f"{100 * share / most:.1f}",
            "title": f"row {row}: {count:,} look-ups",
        }
        for row, count, share in top
    ]


def dense_columns(view: View) -> list[dict[str, Any]] | None:
    """Return the dense columns; None if there are none."""
    return [_dense_row(view, column) for column in view.schema.dense] or None


def _dense_row(view: View, column: DenseFeature) -> dict[str, Any]:
    stats = view.stats["columns"][column.name]
    train = stats["train"]
    figures = [train["min"], *_at(train["quantiles"], (0.01, 0.5, 0.99)), train["max"], train["mean"], train["std"]]
    heights, words = _histogram(column.name, train["quantiles"])
    return {
        "name": column.name,
        "normaliser": column.normaliser,
        "nulls": [percent(stats[split]["nulls"] / max(1, stats[split]["rows"])) for split in view.splits()],
        "heights": heights,
        "words": words,
        "figures": [figure(value) for value in figures],
    }


def _at(quantiles: Sequence[float] | None, shares: Sequence[float]) -> list[float | None]:
    return [None if quantiles is None else quantiles[round(share * (len(quantiles) - 1))] for share in shares]


def _histogram(name: str, quantiles: Sequence[float] | None) -> tuple[list[int], str]:
    """Return the heights of a histogram, and its range in words; no heights if there is nothing to draw."""
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
