"""Text of `MODEL_CARD.md`, the description of an exported model for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.config.metrics import METRICS
from ple_rec.inference.signature import InputFeature, Signature

# These metrics come first, in this order.
_MAIN = [metric.key for metric in METRICS]


def card_text(description: Mapping[str, Any], signature: Signature) -> str:
    """Return the text of the model card.

    Args:
        description: Content of `model.json`.
        signature: Signature of the model.
    """
    card, check = description["card"], description["card"]["check"]
    tables = description["tables"]
    precision = tables[0]["precision"] if tables else "none"
    size, exact = card["bytes"]["tables"], card["bytes"]["tables_fp32"]
    of_fp32 = f" ({size / exact:.3f} of fp32)" if exact else ""
    lines = [
        f"# {description['name']}",
        "",
        f"- Model: {card['model']['variant']}, {card['model']['dense_parameters']:,} dense parameters, "
        f"{card['model']['flops_per_sample']:,} FLOPs a sample forward",
        f"- Tables: {len(tables)} in {precision}, {size:,} bytes{of_fp32}",
        f"- Matrix products in {dense_text(description['dense'])}",
        f"- Data: {card['dataset']['name']}, fingerprint {card['dataset']['fingerprint'][:16]}",
        f"- Run: configuration {card['run']['fingerprint'][:16]}, checkpoint {card['run']['checkpoint']}",
        f"- Fusion: {card['fusion']}",
        f"- Examples: {_examples(card['examples'])}",
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
            for metric in sorted(values, key=lambda each: _MAIN.index(each) if each in _MAIN else len(_MAIN)):
                if isinstance(value := values[metric], int | float):
                    lines.append(f"| {split} | {task} | {metric} | {value:,.6g} |")
    lines += [
        "",
        "## The export against the trained model",
        "",
        f"{check['rows']:,} rows of {check['split']}, products in {check['dense']}; "
        f"a score may differ by {check['tolerance']:g}, and {check['auc_loss']:g} of AUC may be lost. "
        "Differences of a regression are in standard deviations of its label.",
        "",
        "| task | largest difference | mean difference | AUC | AUC lost |",
        "|---|---|---|---|---|",
    ]
    for name, task in check["tasks"].items():
        lines.append(
            f"| {name} | {task['largest']:.2g} | {task['mean']:.2g} | {_number(task['auc'], '.6f')} | "
            f"{_number(task['auc_loss'], '.2g')} |"
        )
    if exact := check.get("fp32"):
        largest = max(task["largest"] for task in exact["tasks"].values())
        lines += [
            "",
            f"In fp32 a score may differ by {exact['tolerance']:g}, and the largest difference is {largest:.2g}.",
        ]
    lines += ["", "## Inputs", "", "Raw values, as the dataset's expressions give them.", ""]
    for title, inputs in (("Of the user", signature.of("user")), ("Of an item", signature.of("item"))):
        lines.append(f"- {title}: {', '.join(map(_input, inputs)) or 'none'}")
    return "\n".join(lines) + "\n"


def dense_text(dense: Mapping[str, Any]) -> str:
    """Return a text about the precision of matrix products in a server.

    Args:
        dense: Value of `dense` in `model.json`.
    """
    if "refused" in dense:
        bounds = "--tolerance and --auc-loss let more through"
        return f"fp32, though bf16 was to be allowed (auto): {dense['refused']} ({bounds})"
    precision: str = dense["precision"]
    return (
        "bf16 where the serving machine is clearly faster in it, else fp32 (auto)" if precision == "auto" else precision
    )


def _examples(examples: Mapping[str, int]) -> str:
    if not examples["lists"]:
        return "this folder holds no rows of users"
    rows = f"{examples['rows']:,} held-out rows of real users"
    return f"examples.json holds {rows}, asked for by --examples {examples['lists']}"


def _input(feature: InputFeature) -> str:
    weighted = " with weights" if feature.weighted else ""
    return f"`{feature.name}` ({'list of ' if feature.bag else ''}{feature.type}{weighted})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
