"""Progressive validation: a model is judged on each new day, by rows of that day that it has never seen.

Here the served version and the candidate score the same rows, the test split of the newest day. Neither was trained on
them. The candidate's checkpoint was chosen by the valid split, and that of the served version by rows of an earlier
day; if the first appended day is the test day of the root, by rows of this day, too.

Both models read the raw values of the rows, as a server does, so that an id which is new today is unknown to the served
version. Rows with more values in a bag than a request may have are left out.

Shape suffixes: N rows, M metrics, R resamples, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.compare.resampling import count_groups, metrics_of_rows, resampled_metrics, row_interval
from ple_rec.config.daily import GateMetric
from ple_rec.config.metrics import is_higher_better
from ple_rec.days.record import Difference
from ple_rec.errors import UserError
from ple_rec.inference.held_out import RawHeldOutRows
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.read_back import requestable_rows, split_into_requests
from ple_rec.inference.request_error import RequestError

METRICS: Mapping[str, tuple[GateMetric, ...]] = {"binary": ("auc", "ne"), "regression": ("mse",)}


def compare_versions(served: Ranker, candidate: Ranker, raw: RawHeldOutRows) -> list[Difference]:
    """Return the differences of the candidate to the served version, for each task that both have.

    Args:
        served: Version that is served now.
        candidate: New version.
        raw: Held-out rows of the newest day.

    Raises:
        UserError: The served version reads a feature that the rows do not have.
    """
    rows_N = requestable_rows(raw)
    if not len(rows_N):
        raise UserError(
            f"the {raw.rows.split} split of the newest day",
            "has no rows",
            "the served version and the candidate are compared on them",
            "hold out a greater share of the day: append.test in the configuration of the preparation",
        )
    scores_NK = _score(candidate, raw, rows_N)
    served_scores_NK = _score(served, raw, rows_N)
    kinds = candidate.signature.kinds
    served_tasks = list(served.signature.kinds)
    tasks = [(k, name) for k, name in enumerate(kinds) if name in served_tasks]
    served_scores_NK = _reorder_columns(
        served_scores_NK, [served_tasks.index(name) if name in served_tasks else None for name in kinds]
    )
    groups = {} if raw.rows.group_N is None else {"group": raw.rows.group_N[rows_N]}
    arrays = {"labels": raw.rows.labels_NK[rows_N], "weights": raw.rows.in_space_NK[rows_N].astype(np.float32)} | groups
    metrics = [(k, metric) for k, name in tasks for metric in METRICS[kinds[name]]]
    both = [arrays | {"scores": each} for each in (served_scores_NK, scores_NK)]
    (served_M, candidate_M), (served_MR, candidate_MR) = (
        [function(each, metrics) for each in both] for function in (_defined_metrics, resampled_metrics)
    )
    names = list(kinds)
    differences = []
    for m, (k, metric) in enumerate(metrics):
        name = names[k]
        in_space_N = arrays["weights"][:, k] > 0
        positives = in_space_N if kinds[name] == "regression" else in_space_N & (arrays["labels"][:, k] > 0.5)
        sign = 1.0 if is_higher_better(metric) else -1.0
        values = [None if np.isnan(x_M[m]) else float(x_M[m]) for x_M in (served_M, candidate_M)]
        gain = None if None in values else sign * float(candidate_M[m] - served_M[m])
        interval = row_interval(metric, [candidate_MR[m]], [served_MR[m]], count_groups(arrays, k))
        differences.append(
            Difference(
                task=name,
                metric=metric,
                served=values[0],
                candidate=values[1],
                gain=gain,
                interval=None if gain is None else interval,
                rows=int(in_space_N.sum()),
                positives=int(positives.sum()),
            )
        )
    return differences


def _defined_metrics(rows: Mapping[str, NDArray[Any]], metrics: list[tuple[int, GateMetric]]) -> NDArray[np.float64]:
    """Return the metrics of the rows, NaN where a class is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return metrics_of_rows(rows, metrics)


def _reorder_columns(scores_NK: NDArray[np.float32], columns: Sequence[int | None]) -> NDArray[np.float32]:
    """Return scores with their columns in another order.

    Args:
        scores_NK: Scores to reorder.
        columns: Place in `scores_NK` of each column of the result; None for a column of NaN.
    """
    missing_N = np.full(len(scores_NK), np.nan, scores_NK.dtype)
    return np.stack([missing_N if column is None else scores_NK[:, column] for column in columns], axis=1)


def _score(ranker: Ranker, raw: RawHeldOutRows, rows_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the scores of held-out rows from their raw values.

    Raises:
        UserError: The version reads a feature that the rows do not have, or refuses a value.
    """
    names = [each.name for each in ranker.signature.inputs]
    scores = []
    for part_N in split_into_requests(raw, rows_N):
        columns = raw.columns(part_N)
        if lacking := [name for name in names if name not in columns]:
            rule = "both versions score the held-out rows of the newest day, which lack this feature"
            fix = "publish the first version of the new features by `ple-rec export`"
            raise UserError(f"version {ranker.version}", f'reads "{lacking[0]}"', rule, fix)
        try:
            request = ranker.read_score({"rows": {name: columns[name] for name in names}})
        except RequestError as error:
            rule = f"{error.rule}; both versions score the held-out rows of the newest day"
            fix = "publish the first version of the changed features by `ple-rec export`"
            raise UserError(f"version {ranker.version}, {error.field}", f"refuses {error.value}", rule, fix) from error
        scores.append(ranker.score_rows([request]).scores_BK.numpy())
    return np.concatenate(scores)
