"""The sections on the columns: what is missing in each, how its values spread, and which are frequent."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.stats.page.view import View, cut, figure, percent
from ple_rec.config.schema import SparseFeature
from ple_rec.html.markup import table, text
from ple_rec.html.strips import bars_strip, share_strip
from ple_rec.text.units import short_count

_BINS = 38  # of a histogram
_MANY = 12  # sparse columns above which their frequent values are folded away


def sparse_columns(view: View) -> str:
    """A row per column, then its most frequent values."""
    schema = view.schema
    if not schema.sparse:
        return ""
    splits = view.splits()
    lead = (
        "<p>Unknown: look-ups of row 0, for values that are missing or were too rare in train. Rows hit: distinct rows "
        "of the table that train looks up. Top 10: the share of look-ups on the ten most frequent rows.</p>"
    )
    head = [
        '<th class="text" scope="col">column</th><th class="text" scope="col">table</th><th scope="col">rows</th>',
        '<th scope="col">rows hit</th>',
        *(f'<th scope="col">unknown,<br>{split}</th>' for split in splits),
        '<th scope="col" colspan="2">top 10</th>',
    ]
    bags = any(feature.bag for feature in schema.sparse)
    head += ['<th scope="col">ids a row</th><th scope="col">empty</th>'] * bags
    body = [_sparse_row(view, feature, splits, bags=bags) for feature in schema.sparse]
    cards = "".join(_card(view, feature) for feature in schema.sparse)
    cards = f'<div class="cards">{cards}</div>'
    if len(schema.sparse) > _MANY:
        cards = f"<details><summary>Of all {len(schema.sparse)} columns</summary>{cards}</details>"
    return f"{lead}{table(head, body, plotted=True)}<h3>Most frequent values in train</h3>{cards}"


def _sparse_row(view: View, feature: SparseFeature, splits: Sequence[str], *, bags: bool) -> str:
    found, train = view.stats["columns"][feature.name], view.stats["columns"][feature.name]["train"]
    rows = view.schema.table_rows()[feature.table]
    unknown = "".join(f"<td>{percent(found[split]['oov_rate'])}</td>" for split in splits)
    top = sum(share or 0.0 for _, _, share in train["top"])
    strip = share_strip(top, f"{100 * top:.1f} % of look-ups on the ten most frequent rows")
    cells = f'<td class="plot">{strip}</td><td class="share">{100 * top:.1f} %</td>'
    if bags and feature.bag:
        cells += f"<td>{figure(train['mean_length'])}</td><td>{percent(train['empty'] / max(1, train['rows']))}</td>"
    elif bags:
        cells += "<td></td><td></td>"
    own = "" if feature.table == feature.name else text(feature.table)
    return (
        f'<tr><th class="text" scope="row">{text(feature.name)}</th><td class="text">{own}</td>'
        f"<td>{short_count(rows)}</td><td>{short_count(train['hit'])}</td>{unknown}{cells}</tr>"
    )


def _card(view: View, feature: SparseFeature) -> str:
    top = view.stats["columns"][feature.name]["train"]["top"]
    most = max((share for _, _, share in top), default=1.0) or 1.0
    lines = "".join(
        f'<li style="--w:{100 * share / most:.1f}%" title="{text(f"row {row}: {count:,} look-ups")}">'
        f"<span>{text(cut(view.value(feature.name, row), 40))}</span><b>{percent(share, digits=1)}</b></li>"
        for row, count, share in top
    )
    return f'<div class="card"><h4>{text(feature.name)}</h4><ol>{lines}</ol></div>'


def dense_columns(view: View) -> str:
    """A row per column: nulls, histogram and quantiles of train."""
    if not view.schema.dense:
        return ""
    splits = view.splits()
    lead = (
        "<p>Histograms of train, from its quantiles, over the range from 0.5 to 99.5 %; heights are shares of rows.</p>"
    )
    head = [
        '<th class="text" scope="col">column</th><th class="text" scope="col">normaliser</th>',
        *(f'<th scope="col">null,<br>{split}</th>' for split in splits),
        '<th class="plot" scope="col">distribution</th><th scope="col">min</th><th scope="col">1 %</th>',
        '<th scope="col">median</th><th scope="col">99 %</th><th scope="col">max</th><th scope="col">mean</th>',
        '<th scope="col">std</th>',
    ]
    body = []
    for number in view.schema.dense:
        found = view.stats["columns"][number.name]
        train = found["train"]
        nulls = "".join(f"<td>{percent(found[s]['nulls'] / max(1, found[s]['rows']))}</td>" for s in splits)
        shown = [train["min"], *_at(train["quantiles"], (0.01, 0.5, 0.99)), train["max"], train["mean"], train["std"]]
        cells = "".join(f"<td>{figure(value)}</td>" for value in shown)
        body.append(
            f'<tr><th class="text" scope="row">{text(number.name)}</th><td class="text">{number.normaliser}</td>{nulls}'
            f'<td class="plot">{_histogram(number.name, train["quantiles"])}</td>{cells}</tr>'
        )
    return f'{lead}<div class="tight">{table(head, body, plotted=True)}</div>'


def _at(quantiles: Sequence[float] | None, shares: Sequence[float]) -> list[float | None]:
    return [None if quantiles is None else quantiles[round(share * (len(quantiles) - 1))] for share in shares]


def _histogram(name: str, quantiles: Sequence[float] | None) -> str:
    if quantiles is None:
        return '<span class="absent">no value</span>'
    low, high = (quantiles[round(share * (len(quantiles) - 1))] for share in (0.005, 0.995))
    if low == high:
        return f'<span class="absent">{figure(low)} in 99 % or more</span>'
    counts = [0] * _BINS
    for value in quantiles:
        if low <= value <= high:
            counts[min(_BINS - 1, int(_BINS * ((value - low) / (high - low))))] += 1
    return bars_strip(counts, f"{name} from {low:.4g} to {high:.4g}")
