"""Text of `MODEL_CARD.md`, the description of an exported model for people.

`export` writes it from `model.json`. It has sizes and precisions, source of the fusion, metrics of the run, differences
between the export and the trained model, and the input features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.metrics import METRICS
from ple_rec.config.raw_form import RawForm
from ple_rec.inference.signature import InputFeature, Signature

CARD_FILE = "MODEL_CARD.md"
# These metrics come first, in this order.
_FIRST_METRICS = [metric.key for metric in METRICS]


def card_text(description: Mapping[str, Any], signature: Signature, raw_form: RawForm | None = None) -> str:
    """Return the text of the model card.

    Args:
        description: Content of `model.json`.
        signature: Signature of the model.
        raw_form: Raw columns of requests; None if the model does not have the raw form.
    """
    card, check = description["card"], description["card"]["check"]
    tables = description["tables"]
    precision = tables[0]["precision"] if tables else "none"
    size, fp32_size = card["bytes"]["tables"], card["bytes"]["tables_fp32"]
    size_ratio = f" ({size / fp32_size:.3f} of fp32)" if fp32_size else ""
    lines = [
        f"# {description['name']}",
        "",
        f"- Model: {card['model']['variant']}, {card['model']['dense_parameters']:,} dense parameters, "
        f"{card['model']['flops_per_sample']:,} FLOPs a sample forward",
        f"- Tables: {len(tables)} in {precision}, {size:,} bytes{size_ratio}",
        f"- Matrix products in {dense_text(description['dense'])}",
        f"- Data: {card['dataset']['name']}, fingerprint {card['dataset']['fingerprint'][:16]}",
        f"- Run: configuration {card['run']['fingerprint'][:16]}, checkpoint {card['run']['checkpoint']}",
        f"- Fusion: {card['fusion']}",
        f"- Examples: {_examples_text(card['examples'])}",
        *([f"- Rates: {_keys_text(card['rates'])}"] if card["rates"] else []),
        *([f"- Events of histories: {_keys_text(card['events'])}"] if card.get("events") else []),
        *([f"- Delta: {delta_text(card['delta'])}"] if "delta" in card else []),
        *([f"- Whole version of {card['squashed']}, a delta, with the same scores"] if "squashed" in card else []),
        f"- Licence: {card['licence'] or 'not stated'}",
        f"- Made: {card['created']} by {description['made_by']}",
        "",
        "## Metrics",
        "",
        "| split | task | metric | value |",
        "|---|---|---|---|",
    ]
    for split, metrics in card["metrics"].items():
        for task, values in metrics.get("tasks", {}).items():
            for metric in sorted(
                values, key=lambda each: _FIRST_METRICS.index(each) if each in _FIRST_METRICS else len(_FIRST_METRICS)
            ):
                if isinstance(value := values[metric], int | float):
                    lines.append(f"| {split} | {task} | {metric} | {value:,.6g} |")
    lines += [
        "",
        "## The export against the trained model",
        "",
        f"{check['rows']:,} rows of {check['split']}, products in {check['dense']}; "
        f"a score may differ by {check['tolerance']:g}, and {check['auc_loss']:g} of AUC may be lost. "
        "Differences of a regression's prediction are in standard deviations of its label.",
        "",
        "| task | largest difference | mean difference | AUC | AUC lost |",
        "|---|---|---|---|---|",
    ]
    for name, task in check["tasks"].items():
        lines.append(
            f"| {name} | {task['largest']:.2g} | {task['mean']:.2g} | {_format_number(task['auc'], '.6f')} | "
            f"{_format_number(task['auc_loss'], '.2g')} |"
        )
    if fp32_check := check.get("fp32"):
        largest = max(task["largest"] for task in fp32_check["tasks"].values())
        lines += [
            "",
            f"In fp32 a score may differ by {fp32_check['tolerance']:g}, and the largest difference is {largest:.2g}.",
        ]
    if "delta" in card:
        lines += _changes_lines(card["delta"], {table["name"]: table["rows"] for table in tables})
    lines += ["", "## Inputs", "", "Raw values, as the dataset's expressions give them.", ""]
    for title, inputs in (("Of the user", signature.inputs_of("user")), ("Of an item", signature.inputs_of("item"))):
        lines.append(f"- {title}: {', '.join(map(_format_input, inputs)) or 'none'}")
    if raw_form is not None:
        lines += ["", "## Raw columns", "", 'Columns of the log, which a request with `"form": "raw"` has instead.', ""]
        for title, columns in zip(("Of the user", "Of an item"), raw_form.describe().values(), strict=True):
            lines.append(f"- {title}: {', '.join(map(_format_column, columns)) or 'none'}")
    return "\n".join(lines) + "\n"


def dense_text(dense: Mapping[str, Any]) -> str:
    """Return a text about the precision of matrix products in a server.

    Args:
        dense: Value of `dense` in `model.json`.
    """
    if "refused" in dense:
        bounds = "--tolerance and --auc-loss allow more"
        return f"fp32; auto would allow bf16, but its check failed: {dense['refused']} ({bounds})"
    precision: str = dense["precision"]
    return "bf16 if the serving machine is clearly faster in it, else fp32 (auto)" if precision == "auto" else precision


def delta_text(delta: Mapping[str, Any]) -> str:
    """Return a text about the size of a delta.

    Args:
        delta: Value of `delta` in the card of `model.json`.
    """
    size = delta["bytes"] / delta["whole_bytes"]
    return (
        f"of {delta['base']}; {delta['bytes']:,} bytes, {size:.3f} of {delta['whole']}, the last whole version; a "
        f"server holds {delta['share']:.3f} of the bytes of its tables and vocabularies besides them"
    )


def changes_texts(delta: Mapping[str, Any]) -> list[str]:
    """Return a text for each table about its changes since the base of a delta.

    Args:
        delta: Value of `delta` in the card of `model.json`.
    """
    texts = []
    for table, changed in delta["changed_rows"].items():
        values = delta["values"].get(table)
        values_text = "" if values is None else f", {values['came']:,} values came, {values['went']:,} went"
        texts.append(f"{table}: {changed:,} rows changed{values_text}")
    return texts


def _changes_lines(delta: Mapping[str, Any], rows: Mapping[str, int]) -> list[str]:
    """Return the lines of the card about the changes of a delta.

    Args:
        delta: Value of `delta` in the card of `model.json`.
        rows: Number of rows of each table.
    """
    lines = ["", f"## Changes since {delta['base']}", ""]
    lines += ["| table | rows | changed rows | values that came | values that went |", "|---|---|---|---|---|"]
    for table, changed in delta["changed_rows"].items():
        values = delta["values"].get(table, {})
        came, went = (_format_number(values.get(key), ",") for key in ("came", "went"))
        lines.append(f"| {table} | {rows[table]:,} | {changed:,} | {came} | {went} |")
    return lines


def _examples_text(examples: Mapping[str, int]) -> str:
    if not examples["lists"]:
        return "none; this folder has no rows of users"
    rows = f"{examples['rows']:,} held-out rows of real users"
    return f"examples.json has {rows} (--examples {examples['lists']})"


def _keys_text(tables_by_key: Sequence[Mapping[str, Any]]) -> str:
    tables = ", ".join(f"{each['table']} ({each['rows']:,} keys, {each['bytes']:,} bytes)" for each in tables_by_key)
    return (
        f"as of {min(each['as_of'] for each in tables_by_key)} at the export: {tables}; newer ones need no new version"
    )


def _format_input(feature: InputFeature) -> str:
    weighted = " with weights" if feature.weighted else ""
    if feature.events is not None:
        items = ", ".join(item.name for item in feature.events.items)
        return f"`{feature.name}` (last {feature.events.length} events of {items}, each with its age)"
    if feature.vector is not None:
        key = "" if feature.type == "number" else f", or {feature.type} as key of its table"
        return f"`{feature.name}` (vector of {feature.vector} numbers{key})"
    return f"`{feature.name}` ({'list of ' if feature.bag else ''}{feature.type}{weighted})"


def _format_column(column: Mapping[str, Any]) -> str:
    return f"`{column['name']}` ({column['type']}{', required' if column['required'] else ''})"


def _format_number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
