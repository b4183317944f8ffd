"""The sections on the columns: what is missing in each, how its values spread, and which are frequent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.stats.page.view import View, cut, figure, percent
from ple_rec.config.schema import DenseFeature, SparseFeature
from ple_rec.html.units import short_count

_BINS = 38  # of a histogram
_MANY = 12  # sparse columns above which their frequent values are folded away


class SparseRow(NamedTuple):
    """A sparse column.

    Args:
        name: Name of the column.
        table: Its table, where that has another name.
        rows: Rows of the table.
        hit: Rows that train looks up.
        unknown: Share of look-ups of row 0 by split.
        top: Share of look-ups on the ten most frequent rows.
        length: Ids in a row of a bag.
        empty: Share of empty bags.
    """

    name: str
    table: str
    rows: str
    hit: str
    unknown: list[str]
    top: float
    length: str
    empty: str


class Value(NamedTuple):
    """A frequent value: its share of look-ups, this in percent of that of the most frequent, and its row in words."""

    name: str
    share: str
    width: str
    title: str


class Sparse(NamedTuple):
    """A row per sparse column, then its most frequent values; `bags` tells whether any column has several ids a row."""

    bags: bool
    rows: list[SparseRow]
    cards: list[tuple[str, list[Value]]]
    folded: bool


class DenseRow(NamedTuple):
    """A dense column: its nulls by split, a histogram or words in its place, and figures of train."""

    name: str
    normaliser: str
    nulls: list[str]
    heights: list[int]
    words: str
    figures: list[str]


def sparse_columns(view: View) -> Sparse | None:
    """Return the sparse columns; None where there are none."""
    columns = view.schema.sparse
    if not columns:
        return None
    return Sparse(
        any(feature.bag for feature in columns),
        [_sparse_row(view, feature) for feature in columns],
        [(feature.name, _values(view, feature)) for feature in columns],
        len(columns) > _MANY,
    )


def _sparse_row(view: View, feature: SparseFeature) -> SparseRow:
    found = view.stats["columns"][feature.name]
    train = found["train"]
    return SparseRow(
        feature.name,
        "" if feature.table == feature.name else feature.table,
        short_count(view.schema.table_rows()[feature.table]),
        short_count(train["hit"]),
        [percent(found[split]["oov_rate"]) for split in view.splits()],
        sum(share or 0.0 for _, _, share in train["top"]),
        figure(train["mean_length"]) if feature.bag else "",
        percent(train["empty"] / max(1, train["rows"])) if feature.bag else "",
    )


def _values(view: View, feature: SparseFeature) -> list[Value]:
    top = view.stats["columns"][feature.name]["train"]["top"]
    most = max((share for _, _, share in top), default=1.0) or 1.0
    return [
        Value(
            cut(view.value(feature.name, row), 40),
            percent(share, digits=1),
            f"{100 * share / most:.1f}",
            f"row {row}: {count:,} look-ups",
        )
        for row, count, share in top
    ]


def dense_columns(view: View) -> list[DenseRow] | None:
    """Return the dense columns; None where there are none."""
    return [_dense_row(view, column) for column in view.schema.dense] or None


def _dense_row(view: View, column: DenseFeature) -> DenseRow:
    found = view.stats["columns"][column.name]
    train = found["train"]
    shown = [train["min"], *_at(train["quantiles"], (0.01, 0.5, 0.99)), train["max"], train["mean"], train["std"]]
    heights, words = _histogram(column.name, train["quantiles"])
    return DenseRow(
        column.name,
        column.normaliser,
        [percent(found[split]["nulls"] / max(1, found[split]["rows"])) for split in view.splits()],
        heights,
        words,
        [figure(value) for value in shown],
    )


def _at(quantiles: Sequence[float] | None, shares: Sequence[float]) -> list[float | None]:
    return [None if quantiles is None else quantiles[round(share * (len(quantiles) - 1))] for share in shares]


def _histogram(name: str, quantiles: Sequence[float] | None) -> tuple[list[int], str]:
    """Return the heights of a histogram and its range in words; words alone where there is nothing to draw."""
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
