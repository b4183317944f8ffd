"""Rows of a dataset's held-out split as an export needs them, in table rows: to check its scores, and for examples.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ple_rec.config.base import Split
from ple_rec.data.batch import Batch
from ple_rec.data.columns import Selection
from ple_rec.inference.feature_parsing import Ids
from ple_rec.inference.request import ScoreRequest
from ple_rec.training.context import EvaluationJob
from ple_rec.training.scores import binary_of, scores_of


@dataclass(frozen=True)
class HeldOut:
    """Rows of a split, in its order.

    Args:
        split: Name of the split.
        ids: Table rows of every sparse feature.
        dense: Numbers of every dense feature, NaN where one is missing.
        batch_rows: Rows of each batch in which the trained model has scored them, but for the last.
        scores_NK: Scores of the trained model.
        labels_NK: Labels, 0 outside of a task's sample space.
        in_space_NK: True where a label counts.
        group_N: Group of each row, -1 where it has none; None for a dataset without groups.
    """

    split: Split
    ids: Mapping[str, Ids]
    dense: Mapping[str, NDArray[np.float32]]
    batch_rows: int
    scores_NK: NDArray[np.float32]
    labels_NK: NDArray[np.float32]
    in_space_NK: NDArray[np.bool_]
    group_N: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Return the number of rows, N."""
        return len(self.labels_NK)

    def requests(self) -> Iterator[ScoreRequest]:
        """Yield the rows as requests for scores, cut as the batches of the trained model: so bits are equal in fp32."""
        for places_N in np.split(np.arange(len(self)), range(self.batch_rows, len(self), self.batch_rows)):
            ids = {name: each.take(places_N) for name, each in self.ids.items()}
            dense = {name: x_N[places_N] for name, x_N in self.dense.items()}
            yield ScoreRequest(rows=len(places_N), ids=ids, dense=dense)

    def constant_within_groups(self) -> tuple[str, ...]:
        """Return the features that have one value in all rows of each group, the user's; none where groups are rows."""
        if self.group_N is None:
            return ()
        same_N = (self.group_N[1:] == self.group_N[:-1]) & (self.group_N[1:] >= 0)
        if not same_N.any():
            return ()
        return tuple(name for name, x_N in self.comparable().items() if (x_N[1:] == x_N[:-1])[same_N].all())

    def comparable(self) -> dict[str, NDArray[Any]]:
        """Return for each row and feature something that is equal where the values are equal."""
        sparse = {name: ids.values_V if ids.offsets_N is None else _bags(ids) for name, ids in self.ids.items()}
        return sparse | {name: np.where(np.isnan(x_N), np.float32(np.inf), x_N) for name, x_N in self.dense.items()}


@torch.no_grad()
def held_out(job: EvaluationJob, split: Split, most: int) -> HeldOut:
    """Return the first rows of a split with the scores of the trained model.

    Args:
        job: Evaluation whose model has the state of a checkpoint, and whose batches are not in requests.
        split: Name of the split.
        most: Number of rows; there may be up to a batch more.
    """
    binary_K = binary_of(job.selection.tasks)
    parts, scores, labels, spaces, groups, seen = [], [], [], [], [], 0
    job.model.eval()
    with closing(job.evaluation_loader(split).epoch(0)) as batches:
        for batch in batches:
            logits_BK = job.model(batch.to(job.ranks.device))[0][: batch.rows]
            parts.append(_columns_of(batch, job.selection))
            scores.append(scores_of(logits_BK, binary_K).numpy())
            labels.append(batch.labels_BK[: batch.rows].numpy().copy())
            spaces.append(batch.in_space_BK[: batch.rows].numpy() > 0)
            if batch.group_B is not None:
                groups.append(batch.group_B[: batch.rows].numpy().copy())
            seen += batch.rows
            if seen >= most:
                break
    return HeldOut(
        split,
        {each.name: _joined([ids[each.name] for ids, _ in parts]) for each in job.selection.sparse},
        {each.name: np.concatenate([dense[each.name] for _, dense in parts]) for each in job.selection.dense},
        len(scores[0]),
        np.concatenate(scores),
        np.concatenate(labels),
        np.concatenate(spaces),
        np.concatenate(groups) if groups else None,
    )


def _columns_of(batch: Batch, selection: Selection) -> tuple[dict[str, Ids], dict[str, NDArray[np.float32]]]:
    """Return the sparse and the dense features of a batch, without its padding."""
    ids = {}
    columns = {} if batch.sparse is None else batch.sparse.to_dict()
    for feature in selection.sparse:
        column = columns[feature.name]
        lengths_N = column.lengths()[: batch.rows].numpy().astype(np.int64)
        count = int(lengths_N.sum())
        ids[feature.name] = Ids(
            column.values()[:count].numpy().astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths_N)]) if feature.bag else None,
            column.weights()[:count].numpy().copy() if feature.weights is not None else None,
        )
    return ids, {each.name: batch.dense_BF[: batch.rows, f].numpy().copy() for f, each in enumerate(selection.dense)}


def _joined(parts: Sequence[Ids]) -> Ids:
    """Return the rows of several batches, one after the other."""
    offsets = [part.offsets_N for part in parts if part.offsets_N is not None]
    weights = [part.weights_V for part in parts if part.weights_V is not None]
    lengths_N = np.concatenate([np.diff(each) for each in offsets]) if offsets else None
    return Ids(
        np.concatenate([part.values_V for part in parts]),
        None if lengths_N is None else np.concatenate([[0], np.cumsum(lengths_N)]),
        np.concatenate(weights) if weights else None,
    )


def _bags(ids: Ids) -> NDArray[Any]:
    """Return the values and weights of each bag as a tuple."""
    assert ids.offsets_N is not None
    values = ids.values_V.tolist()
    weights = None if ids.weights_V is None else ids.weights_V.tolist()
    bags = np.empty(len(ids.offsets_N) - 1, object)
    for i, (begin, end) in enumerate(pairwise(ids.offsets_N.tolist())):
        bags[i] = (*values[begin:end], None if weights is None else tuple(weights[begin:end]))
    return bags
