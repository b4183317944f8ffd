"""The differences of two runs as a person, or a program, reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ple_rec.config.diff import Difference
from ple_rec.config.metrics import METRICS
from ple_rec.config.words import toml_value
from ple_rec.runs.diff import SIZES, Compared, RunDiff
from ple_rec.runs.record import RunRecord
from ple_rec.runs.results import MISSING, number
from ple_rec.text import printable
from ple_rec.text.plain import fitted, json_text, wrapped
from ple_rec.text.units import short_count


def format_diff(diff: RunDiff, width: int) -> str:
    """Return the differences as plain text, without a trailing newline.

    Args:
        diff: Differences of two runs.
        width: Characters that a line may have: what is longer goes on in the next line, and names of tasks are cut.
    """
    heads = [_head(letter, run) for letter, run in zip("ab", diff.runs, strict=True)]
    blocks = ["\n".join(wrapped(printable(head), width, "   ") for head in heads)]
    if verdict := diff.verdict():
        blocks.append(wrapped(verdict, width))
    if diff.configuration:
        blocks.append(_changes("configuration", diff.configuration, toml_value, width))
    if diff.environment:
        blocks.append(_changes("environment", diff.environment, str, width))
    if diff.notes:
        blocks.append("\n".join(wrapped(printable(note), width) for note in diff.notes))
    if diff.tasks:
        blocks.append(fitted(_metric_rows(diff), width))
    if diff.sizes:
        rows = [_size_row(heading, *diff.sizes[key]) for key, heading in SIZES.items() if key in diff.sizes]
        blocks.append(fitted([["size and speed", "a", "b", "b / a"], *rows], width))
    return "\n\n".join(blocks)


def diff_json(diff: RunDiff) -> str:
    """Return the differences as JSON.

    `{"a": {"path", "status", "step"}, "b": .., "verdict", "configuration": [{"key", "a", "b"}] | null, "environment":
    [{"key", "a", "b"}], "split", "tasks": {task: {metric: {"a", "b", "difference", "bound", "within_bound",
    "better"}}}, "sizes": {name: {"a", "b", "ratio"}}, "notes"}`; a key that a side lacks is null there, and so is
    what is no JSON number, such as the bound of a difference of which nothing can be said.
    """
    return json_text(
        {
            **{
                letter: {"path": str(run.path), "status": run.status, "step": run.step}
                for letter, run in zip("ab", diff.runs, strict=True)
            },
            "verdict": diff.verdict(),
            "configuration": None if diff.configuration is None else _keyed(diff.configuration),
            "environment": _keyed(diff.environment),
            "split": diff.split,
            "tasks": {
                task: {
                    metric: {**one._asdict(), "difference": one.difference, "within_bound": one.within_bound}
                    for metric, one in metrics.items()
                }
                for task, metrics in diff.tasks.items()
            },
            "sizes": {key: {"a": a, "b": b, "ratio": _ratio(a, b)} for key, (a, b) in diff.sizes.items()},
            "notes": diff.notes,
        }
    )


def _head(letter: str, run: RunRecord) -> str:
    of = f" of {run.total_steps:,}" if run.total_steps not in (None, run.step) else ""
    step = f", step {run.step:,}{of}" if run.step is not None else ""
    best = f", best {run.best_step:,}" if run.best_step not in (None, run.step) else ""
    return f"{letter}  {run.path}: {run.variant or 'variant unknown'}, {run.status}{step}{best}"


def _changes(heading: str, found: Sequence[Difference], text: Callable[[Any], str], width: int) -> str:
    """Return a line `key: value in a -> value in b` for each difference; what is too long goes on below."""
    shown = ([key, *(MISSING if value is None else text(value) for value in pair)] for key, *pair in found)
    lines = (printable(f"{key}: {a} -> {b}") for key, a, b in shown)
    return "\n".join([f"{heading}, a -> b", *(wrapped(f"  {line}", width, "      ") for line in lines)])


def _metric_rows(diff: RunDiff) -> list[list[str]]:
    rows = [[diff.split, "a", "b", "b - a", "better"]]
    for task, metrics in diff.tasks.items():
        for column in METRICS:
            one = metrics.get(column.key)
            if one is None or (column.key == "samples" and not one.difference):
                continue
            values = [MISSING if value is None else column.text(value) for value in (one.a, one.b)]
            rows.append([f"{task} {column.heading}", *values, _signed(one.difference, column.text), _word(one)])
    return rows


def _signed(difference: float | None, text: Callable[[float], str]) -> str:
    if not difference:
        return MISSING if difference is None else "0"
    return ("+" if difference > 0 else "-") + text(abs(difference))


def _word(one: Compared) -> str:
    if one.within_bound and math.isinf(one.bound):
        return "not certain"
    if one.within_bound:
        return f"within the bound {one.bound:.1e}"
    return one.better or ("same" if one.difference == 0 else MISSING)


def _size_row(heading: str, a: float | None, b: float | None) -> list[str]:
    ratio = _ratio(a, b)
    values = [MISSING if value is None else short_count(round(value)) for value in (a, b)]
    return [heading, *values, MISSING if ratio is None else f"{ratio:.2f}"]


def _ratio(a: float | None, b: float | None) -> float | None:
    return number(b / a) if a and b is not None else None


def _keyed(found: Sequence[Difference]) -> list[dict[str, Any]]:
    return [{"key": key, "a": a, "b": b} for key, a, b in found]
