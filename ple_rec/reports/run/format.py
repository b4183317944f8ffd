"""Numbers in the cells of a run's page, and a sentence on the meaning of each metric."""

from __future__ import annotations

from collections.abc import Mapping

from ple_rec.config.metrics import METRICS
from ple_rec.reports.cells import DASH
from ple_rec.text.json_values import as_number


def count_text(value: object) -> str:
    """Return a number, rounded to an integer, with separators of thousands; a dash if `value` is not a number."""
    known = as_number(value)
    return DASH if known is None else f"{known:,.0f}"


# Meanings of the numbers beside the metrics, by key in `metrics.json`.
_OTHER_MEANINGS = {
    "loss": "loss that training minimises for the task, before its weight; on the validation split, the log loss.",
    "positives": "rows with label 1; if they are few, the other figures are uncertain.",
    "mean_label": "mean of the labels.",
    "mean_prediction": "mean of the predictions.",
    "gauc_groups": "groups with positives and negatives, over which GAUC is the mean.",
    "gauc_excluded_groups": "groups without a positive or without a negative, which GAUC leaves out.",
    "gauc_oversized_groups": "groups too large for the sample of an estimate, which GAUC leaves out.",
    "gauc_ungrouped": "rows without a group, which GAUC leaves out.",
    "subgroup_gauc_groups": "subgroups with positives and negatives, over which their GAUC is the mean.",
    "subgroup_gauc_excluded_groups": "subgroups without a positive or without a negative, which are left out.",
    "subgroup_gauc_oversized_groups": "subgroups too large for the sample of an estimate, which are left out.",
    "subgroup_gauc_ungrouped": "rows without a subgroup, which are left out.",
}


def meanings(headings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the heading of each metric and a sentence about its meaning; metrics without such a sentence are left out.

    Args:
        headings: Heading of each metric that is shown, by its key in `metrics.json`.
    """
    known = {metric.key: metric.meaning for metric in METRICS} | _OTHER_MEANINGS
    return [(heading, known[key]) for key, heading in headings.items() if key in known]
