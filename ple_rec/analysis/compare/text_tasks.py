"""What `ple-rec compare` prints of what happens between tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.analysis.compare.task_relations import KINDS
from ple_rec.runs.results import MISSING
from ple_rec.text import aligned


def relations_table(results: Mapping[str, Any]) -> str:
    """Of each variant the pair of tasks whose gradients on the inputs agree least; the page has the others."""
    lines = [["between tasks", "pair that agrees least", "cosine, weights", "cosine, inputs", "JS by level"]]
    for name, variant in results["variants"].items():
        pairs = dict.fromkeys(tuple(each["tasks"]) for each in (*variant["conflict"], *variant["sharing"]))
        if not pairs:
            continue
        cosines = ((at_end(variant, pair, "inputs")["mean"], pair) for pair in pairs)
        _, pair = min((math.inf if cosine is None else cosine, pair) for cosine, pair in cosines)
        lines.append(
            [
                name,
                " / ".join(pair),
                *(number_text(at_end(variant, pair, kind)) for kind in KINDS),
                distances_text(variant, pair, "shared_and_own"),
            ]
        )
    if len(lines) == 1:
        return ""
    note = (
        "cosine of the tasks' gradients on the weights that they share and on the inputs, at the last evaluation of "
        "training; JS: Jensen-Shannon\ndistance of their mean gate weights, shared experts and all others as one, "
        "0 alike to 1 disjoint"
    )
    return "\n".join([*aligned(lines, left=(0, 1)), note])


def at_end(variant: Mapping[str, Any], pair: Sequence[str], kind: str) -> dict[str, float | None]:
    """Mean and sd over seeds of two tasks' cosine at the last step that is told.

    Args:
        variant: Of compare.json.
        pair: The two.
        kind: On what, one of `KINDS`.
    """
    found = next((each for each in variant["conflict"] if tuple(each["tasks"]) == tuple(pair)), None)
    if found is None or not found["step"]:
        return {"mean": None, "sd": None}
    return {"mean": found[kind][-1], "sd": found[f"{kind}_sd"][-1]}


def distances_text(variant: Mapping[str, Any], pair: Sequence[str], reading: str) -> str:
    """How differently two tasks use what they share, level by level from the first."""
    found = [each[reading] for each in variant["sharing"] if tuple(each["tasks"]) == tuple(pair)]
    return ", ".join(number_text(each | {"sd": None}) for each in found) or MISSING


def number_text(found: Mapping[str, float | None]) -> str:
    """Return a mean and its standard deviation, to three digits; of a single value it alone."""
    if found["mean"] is None:
        return MISSING
    return f"{found['mean']:.3f}" + ("" if found["sd"] is None else f" +- {found['sd']:.3f}")
