"""The results and the placement of the embedding tables as HTML tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.html.markup import DASH, absent, table, text
from ple_rec.text.units import joined_spans, metric_text, short_bytes
from ple_rec.train.report.lenient import count, entries, items
from ple_rec.train.report.meanings import meanings
from ple_rec.train.results import (
    COLUMNS,
    Column,
    by_kind,
    few_samples,
    mapping,
    number,
    paper_sources,
    present,
    split_tasks,
)

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
_POSITIVES = Column("positives", "positives", "{:,.0f}".format)
_COLUMNS = (*COLUMNS, _POSITIVES)  # there is room for them at 1,100 pixels, with papers' figures


def results_tables(metrics: Mapping[str, Any]) -> str:
    """Return a table of the binary tasks and one of the regressions: a row per task and split, papers' figures beside.

    Their columns are the known metrics in their usual order. Folded below: every other number that a task carries, and
    what the columns mean.
    """
    splits = {split: tasks for split in _results_splits(metrics) if (tasks := split_tasks(metrics, split))}
    merged: dict[str, Mapping[str, Any]] = {}
    for tasks in splits.values():
        for name, values in tasks.items():
            merged[name] = {**merged.get(name, {}), **values}
    if not merged:
        return absent("No results: neither metrics.json nor the log has an evaluation.")
    papers = mapping(metrics.get("paper"))
    tables, others = "", ""
    headings: dict[str, str] = {}
    for group in by_kind(merged):
        rows = [tasks[name] for tasks in splits.values() for name in group if name in tasks]
        known, rest = present(_COLUMNS, rows), _other_columns(rows)
        tables += _results_table(group, splits, known, papers)
        others += _results_table(group, splits, rest, {}) if rest else ""
        headings |= {column.key: column.heading for column in (*known, *rest)}
    sources = paper_sources(metrics, list(merged))
    notes = [source + ("" if len(sources) == 1 else f" ({', '.join(names)})") for source, names in sources.items()]
    note = f'<p class="absent">Paper: {text("; ".join(notes))}.</p>' if notes else ""
    few = [(split, line) for split, tasks in splits.items() for line in few_samples(tasks)]
    note += "".join(f'<p class="absent">{text(split)}: {text(line)}.</p>' for split, line in few)
    more = f"<details><summary>Labels, predictions and groups</summary>{others}</details>" if others else ""
    return f'<div class="results">{tables}{note}{more}</div>{meanings(headings)}'


def _results_splits(metrics: Mapping[str, Any]) -> list[str]:
    others = [name for name in metrics if name not in _SPLIT_ORDER and split_tasks(metrics, name)]
    return [*_SPLIT_ORDER, *others]


def _results_table(
    tasks: Sequence[str],
    splits: Mapping[str, Mapping[str, Mapping[str, Any]]],
    columns: Sequence[Column],
    papers: Mapping[str, Any],
) -> str:
    compared = {column.key for column in columns for name in tasks if column.key in mapping(papers.get(name))}
    head = ['<th class="text" scope="col">task</th><th class="text" scope="col">split</th>']
    for column in columns:
        head.append(f'<th scope="col">{text(column.heading)}</th>')
        head += ['<th scope="col">paper</th>'] * (column.key in compared)
    body = []
    for name in tasks:
        shown = [split for split in splits if name in splits[split]]
        for place, split in enumerate(shown):
            values, paper = splits[split][name], mapping(papers.get(name)) if split == "test" else {}
            shown_name = text(name) if place == 0 else ""
            cells = [f'<th class="text" scope="row">{shown_name}</th><td class="text">{text(split)}</td>']
            for column in columns:
                cells.append(_metric_cell(column, values))
                cells += [_metric_cell(column, paper)] * (column.key in compared)
            kind = "minor" * (place > 0) + " joined" * (place + 1 < len(shown))
            body.append(f'<tr class="{kind.strip()}">{"".join(cells)}</tr>')
    return table(head, body)


def _other_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return what a task carries beside metrics, as columns: the known numbers, then all others that there are."""
    metrics = {column.key for column in _COLUMNS} | {"auc_error_bound"}
    there = {key for row in rows for key in row if key not in metrics and number(row[key]) is not None}
    unknown = dict.fromkeys(key for row in rows for key in row if key in there and key not in _MORE)
    keys = [*(key for key in _MORE if key in there), *unknown]
    return [Column(key, _MORE.get(key, key.replace("_", " ")), _plain) for key in keys]


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else metric_text(value)


def _metric_cell(column: Column, values: Mapping[str, Any]) -> str:
    value = number(values.get(column.key))
    if value is None:
        why = ' title="undefined here, for instance because only one class occurs"' if column.key in values else ""
        return f"<td{why}>{DASH if column.key in values else ''}</td>"
    return f"<td>{text(column.text(value))}{_margin(column.key, values)}</td>"


def _margin(key: str, values: Mapping[str, Any]) -> str:
    """How exact a metric is, where that is recorded: the error bound of AUC, the interval of GAUC."""
    bound = number(values.get("auc_error_bound")) if key == "auc" else None
    if bound:
        return f" <small>&plusmn;{bound:.0e}</small>"
    ends = [number(end) for end in items(values.get("gauc_interval"))] if key == "gauc" else []
    low, high = ends if len(ends) == 2 else (None, None)
    return "" if low is None or high is None else f" <small>{metric_text(low)}&ndash;{metric_text(high)}</small>"


def placement_table(plan: Mapping[str, Any]) -> str:
    """Where every embedding table lies, the largest first, with a total; many tables are folded away."""
    tables = entries(plan.get("tables"))
    if not tables:
        return absent("The model has no embedding tables." if plan else "Not recorded.")
    tables.sort(key=lambda entry: -(number(entry.get("bytes")) or 0))
    left = ('<th class="text" scope="col">', '<th scope="col">')
    head = [
        f"{left[0]}table</th>{left[1]}rows</th>{left[1]}dim</th>{left[1]}size</th>",
        f"{left[0]}sharding</th>{left[0]}kernel</th>{left[0]}ranks</th>",
    ]
    body = []
    for entry in tables:
        size = number(entry.get("bytes"))
        counts = "".join(f"<td>{count(entry.get(key))}</td>" for key in ("rows", "dim"))
        words = "".join(f'<td class="text">{text(entry.get(key, ""))}</td>' for key in ("sharding", "kernel"))
        body.append(
            f'<tr><th class="text" scope="row">{text(entry.get("table", ""))}</th>{counts}'
            f"<td>{DASH if size is None else short_bytes(size)}</td>{words}"
            f'<td class="text">{text(_ranks(entry.get("ranks")))}</td></tr>'
        )
    rows, size = (sum(number(entry.get(key)) or 0 for entry in tables) for key in ("rows", "bytes"))
    total = "1 table" if len(tables) == 1 else f"{len(tables)} tables"
    foot = (
        f'<tr><th class="text" scope="row">{total}</th><td>{rows:,.0f}</td><td></td>'
        f'<td>{short_bytes(size)}</td><td colspan="3"></td></tr>'
    )
    content = table(head, body, foot)
    if len(tables) <= _MANY_TABLES:
        return content
    return f"<details><summary>{len(tables)} tables, {short_bytes(size)}</summary>{content}</details>"


def _ranks(value: object) -> str:
    """Rank numbers with neighbours joined: `0-3, 8`."""
    if not isinstance(value, list):
        return "" if value is None else str(value)
    return joined_spans(rank for rank in value if isinstance(rank, int))
