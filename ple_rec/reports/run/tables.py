"""The results, and the placement of the embedding tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.metrics import METRICS, Metric
from ple_rec.reports.numbers import DASH
from ple_rec.reports.run.meanings import meanings
from ple_rec.reports.run.numbers import count
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import (
    by_kind,
    entries,
    few_samples,
    items,
    mapping,
    number,
    paper_sources,
    present,
    split_tasks,
)
from ple_rec.text.units import joined_spans, metric_text, short_bytes

_MANY_TABLES = 24  # more than this are folded away
_MORE = {  # headings of what stands in tables of its own
    "mean_label": "mean label",
    "mean_prediction": "mean prediction",
    "gauc_groups": "groups",
    "gauc_excluded_groups": "groups of one class",
    "gauc_oversized_groups": "groups too large",
    "gauc_ungrouped": "rows of no group",
}
_SPLIT_ORDER = ("test", "valid", "train")
_POSITIVES = Metric("positives", "positives", text="{:,.0f}".format)
_COLUMNS = (*METRICS, _POSITIVES)  # there is room for them at 1,100 pixels, with papers' figures


def results(run: RunFiles) -> dict[str, Any]:
    """Return the final results; those of the last evaluation in the log where there are none."""
    if any(split_tasks(run.metrics, split) for split in run.metrics):
        return _results_of(run.metrics)
    last = run.log.last("valid")
    return _results_of({"valid": last}, f"{last['step']:,}") if last else _results_of({})


def _results_of(metrics: Mapping[str, Any], last_step: str = "") -> dict[str, Any]:
    """Return a table of the binary tasks and one of the regressions, such tables of other numbers, and notes."""
    splits = {split: tasks for split in _results_splits(metrics) if (tasks := split_tasks(metrics, split))}
    merged: dict[str, Mapping[str, Any]] = {}
    for tasks in splits.values():
        for name, values in tasks.items():
            merged[name] = {**merged.get(name, {}), **values}
    papers = mapping(metrics.get("paper"))
    tables, others = [], []
    headings: dict[str, str] = {}
    for group in by_kind(merged):
        rows = [tasks[name] for tasks in splits.values() for name in group if name in tasks]
        known, rest = present(_COLUMNS, rows), _other_columns(rows)
        tables.append(_results_table(group, splits, known, papers))
        others += [_results_table(group, splits, rest, {})] if rest else []
        headings |= {column.key: column.heading for column in (*known, *rest)}
    sources = paper_sources(metrics, list(merged))
    notes = [source + ("" if len(sources) == 1 else f" ({', '.join(names)})") for source, names in sources.items()]
    few = [f"{split}: {line}" for split, tasks in splits.items() for line in few_samples(tasks)]
    return {
        "last_step": last_step,
        "tables": tables,
        "papers": "; ".join(notes),
        "few": few,
        "others": others,
        "meanings": meanings(headings),
    }


def _results_splits(metrics: Mapping[str, Any]) -> list[str]:
    others = [name for name in metrics if name not in _SPLIT_ORDER and split_tasks(metrics, name)]
    return [*_SPLIT_ORDER, *others]


def _results_table(
    tasks: Sequence[str],
    splits: Mapping[str, Mapping[str, Mapping[str, Any]]],
    columns: Sequence[Metric],
    papers: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a row per task and split, papers' figures beside; columns are the known metrics in their usual order."""
    compared = {column.key for column in columns for name in tasks if column.key in mapping(papers.get(name))}
    heads = [head for column in columns for head in (column.heading, *["paper"] * (column.key in compared))]
    rows = []
    for name in tasks:
        shown = [split for split in splits if name in splits[split]]
        for place, split in enumerate(shown):
            values, paper = splits[split][name], mapping(papers.get(name)) if split == "test" else {}
            cells = []
            for column in columns:
                cells.append(_metric_cell(column, values))
                cells += [_metric_cell(column, paper)] * (column.key in compared)
            kind = "minor" * (place > 0) + " joined" * (place + 1 < len(shown))
            rows.append({"kind": kind.strip(), "task": "" if place else name, "split": split, "cells": cells})
    return {"heads": heads, "rows": rows}


def _other_columns(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return what a task carries beside metrics, as columns: the known numbers, then all others that there are."""
    metrics = {column.key for column in _COLUMNS} | {"auc_error_bound"}
    there = {key for row in rows for key in row if key not in metrics and number(row[key]) is not None}
    unknown = dict.fromkeys(key for row in rows for key in row if key in there and key not in _MORE)
    keys = [*(key for key in _MORE if key in there), *unknown]
    return [Metric(key, _MORE.get(key, key.replace("_", " ")), text=_plain) for key in keys]


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else metric_text(value)


def _metric_cell(column: Metric, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return a metric and how exact it is; a dash where it is recorded as undefined."""
    value = number(values.get(column.key))
    if value is None:
        return DASH if column.key in values else "", ""
    return column.text(value), _margin(column.key, values)


def _margin(key: str, values: Mapping[str, Any]) -> str:
    """Return the error bound of AUC, or the interval of GAUC, where it is recorded."""
    bound = number(values.get("auc_error_bound")) if key == "auc" else None
    if bound:
        return f"\u00b1{bound:.0e}"
    ends = [number(end) for end in items(values.get("gauc_interval"))] if key == "gauc" else []
    low, high = ends if len(ends) == 2 else (None, None)
    return "" if low is None or high is None else f"{metric_text(low)}\u2013{metric_text(high)}"


def placement(run: RunFiles) -> dict[str, Any]:
    """Say where every embedding table lies, the largest first, with a total."""
    found = entries(run.plan.get("tables"))
    found.sort(key=lambda entry: -(number(entry.get("bytes")) or 0))
    rows, size = (sum(number(entry.get(key)) or 0 for entry in found) for key in ("rows", "bytes"))
    return {
        "planned": bool(run.plan),
        "tables": [_placed(entry) for entry in found],
        "total": "1 table" if len(found) == 1 else f"{len(found)} tables",
        "rows": f"{rows:,.0f}",
        "size": size,
        "folded": len(found) > _MANY_TABLES,
    }


def _placed(entry: Mapping[str, Any]) -> dict[str, Any]:
    size = number(entry.get("bytes"))
    return {
        **{key: entry.get(key, "") for key in ("table", "sharding", "kernel")},
        "rows": count(entry.get("rows")),
        "dim": count(entry.get("dim")),
        "size": DASH if size is None else short_bytes(size),
        "ranks": _ranks(entry.get("ranks")),
    }


def _ranks(value: object) -> str:
    """Return rank numbers with neighbours joined: `0-3, 8`."""
    if not isinstance(value, list):
        return "" if value is None else str(value)
    return joined_spans(rank for rank in value if isinstance(rank, int))
