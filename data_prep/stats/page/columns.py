"""The sections on the columns: what is missing in each, how its values spread, and which are frequent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_prep.stats.page.view import View, cut, figure, percent
from ple_rec.config.schema import DenseFeature, SparseFeature

_BINS = 38  # of a histogram
_MANY = 12  # sparse columns above which their frequent values are folded away


def sparse_columns(view: View) -> dict[str, Any] | None:
    """Return the sparse columns; None where there are none."""
    columns = view.schema.sparse
    if not columns:
        return None
    return {
        "bags": any(feature.bag for feature in columns),
        "rows": [_sparse_row(view, feature) for feature in columns],
        "cards": [(feature.name, _frequent(view, feature)) for feature in columns],
        "folded": len(columns) > _MANY,
    }


def _sparse_row(view: View, feature: SparseFeature) -> dict[str, Any]:
    found = view.stats["columns"][feature.name]
    train = found["train"]
    return {
        "name": feature.name,
        "table": "" if feature.table == feature.name else feature.table,
        "rows": view.schema.table_rows()[feature.table],
        "hit": train["hit"],
        "unknown": [percent(found[split]["oov_rate"]) for split in view.splits()],
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
    """Return the dense columns; None where there are none."""
    return [_dense_row(view, column) for column in view.schema.dense] or None


def _dense_row(view: View, column: DenseFeature) -> dict[str, Any]:
    found = view.stats["columns"][column.name]
    train = found["train"]
    shown = [train["min"], *_at(train["quantiles"], (0.01, 0.5, 0.99)), train["max"], train["mean"], train["std"]]
    heights, words = _histogram(column.name, train["quantiles"])
    return {
        "name": column.name,
        "normaliser": column.normaliser,
        "nulls": [percent(found[split]["nulls"] / max(1, found[split]["rows"])) for split in view.splits()],
        "heights": heights,
        "words": words,
        "figures": [figure(value) for value in shown],
    }


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
