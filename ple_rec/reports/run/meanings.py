"""What each metric of the report means, in one sentence, to be folded out where the metric stands."""

from __future__ import annotations

from collections.abc import Mapping

_MEANINGS = {
    "loss": "what training lowers for the task, before its weight; on the validation split, the log loss.",
    "auc": (
        "how often a random positive is predicted above a random negative; 1 is perfect, 0.5 is chance. "
        "\u00b1 bounds the error of a value that comes from a histogram."
    ),
    "gauc": (
        "AUC inside each group (the rows of one user or one request), averaged by the groups' rows: whether one user's "
        "list is well ordered. Small figures are the interval of an estimate."
    ),
    "ne": (
        "normalised entropy: log loss divided by that of always predicting the mean label; less is better, and "
        "1 or more is no better than that constant."
    ),
    "logloss": (
        "mean of -log of the probability that was given to what happened, in nats; less is better, and only values "
        "over the same rows can be compared."
    ),
    "mse": "mean of the squared difference between prediction and label; less is better.",
    "rmse": "root of the MSE, in the unit of the label; less is better.",
    "mae": "mean of the absolute difference between prediction and label, in the unit of the label; less is better.",
    "r2": "1 - MSE divided by that of always predicting the mean label; 1 is perfect, 0 is no better than that.",
    "calibration": (
        "sum of the predictions divided by the sum of the labels; 1 is right on average, above 1 the model promises "
        "too much. It says nothing about the order. A task trained by Huber's loss aims between the mean and the "
        "median, so it stays below 1 where a few labels are very large."
    ),
    "samples": "rows that count for the task.",
    "positives": "rows with label 1; where they are few, so is what the other figures say.",
    "mean_label": "mean of the labels.",
    "mean_prediction": "mean of the predictions.",
    "gauc_groups": "groups with positives and negatives, over which GAUC is the mean.",
    "gauc_excluded_groups": "groups without a positive or without a negative, which GAUC leaves out.",
    "gauc_oversized_groups": "groups too large for the sample of an estimate, which GAUC leaves out.",
    "gauc_ungrouped": "rows without a group, which GAUC leaves out.",
}


def meanings(headings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return heading and sentence of each metric that has one.

    Args:
        headings: Heading of each metric that is shown, by its key in `metrics.json`.
    """
    return [(heading, _MEANINGS[key]) for key, heading in headings.items() if key in _MEANINGS]
