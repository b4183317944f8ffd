"""Rows of a dataset's held-out split as an export needs them: to check its scores, and for examples.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from ple_rec.data.encode import Encoder
from ple_rec.serve.feature_parsing import Ids
from ple_rec.serve.request import ScoreRequest
from ple_rec.serve.signature import Signature
from ple_rec.training.job import EvaluationJob
from ple_rec.training.scores import binary_of, scores_of

_FEWEST, _MOST = 5, 60  # rows of an example, where there are such
_UNGROUPED = 40  # rows of an example where there are no groups, and a row holds all features


@dataclass(frozen=True)
class HeldOut:
    """Rows of a split, in its order.

    Args:
        split: Name of the split.
        requests: Rows, as requests for scores.
        scores_NK: Scores of the trained model.
        labels_NK: Labels, 0 outside of a task's sample space.
        in_space_NK: True where a label counts.
        group_N: Group of each row, -1 where it has none; None for a dataset without groups.
    """

    split: Split
    requests: tuple[ScoreRequest, ...]
    scores_NK: NDArray[np.float32]
    labels_NK: NDArray[np.float32]
    in_space_NK: NDArray[np.bool_]
    group_N: NDArray[np.int64] | None

    def constant_within_groups(self) -> tuple[str, ...]:
        """Return the features that have one value in all rows of each group, the user's; none where groups are rows."""
        if self.group_N is None or not len(self.group_N):
            return ()
        same_N = (self.group_N[1:] == self.group_N[:-1]) & (self.group_N[1:] >= 0)
        if not same_N.any():
            return ()
        found = [name for name, part in self.comparable().items() if (part[1:] == part[:-1])[same_N].all()]
        return tuple(found)

    def comparable(self) -> dict[str, NDArray[Any]]:
        """Return for each row and feature something that is equal where the values are equal."""
        values: dict[str, NDArray[Any]] = {}
        for name, first in self.requests[0].ids.items():
            parts = [each.ids[name] for each in self.requests]
            if first.offsets_N is None:
                values[name] = np.concatenate([part.values_V for part in parts])
            else:
                bags = np.empty(sum(each.rows for each in self.requests), object)
                bags[:] = [bag for part in parts for bag in _bags(part)]
                values[name] = bags
        for name in self.requests[0].dense:
            x_N = np.concatenate([each.dense[name] for each in self.requests])
            values[name] = np.where(np.isnan(x_N), np.float32(np.inf), x_N)
        return values


@torch.no_grad()
def held_out(job: EvaluationJob, split: Split, most: int) -> HeldOut:
    """Return the first rows of a split with the scores of the trained model.

    Args:
        job: Evaluation whose model has the state of a checkpoint, and whose batches are not in requests.
        split: Name of the split.
        most: Number of rows; there may be up to a batch more.
    """
    binary_K = binary_of(job.selection.tasks)
    requests, scores, labels, spaces, groups, seen = [], [], [], [], [], 0
    job.model.eval()
    with closing(job.evaluation_loader(split).epoch(0)) as batches:
        for batch in batches:
            logits_BK = job.model(batch.to(job.ranks.device))[0][: batch.rows]
            requests.append(_request_of(batch, job.selection))
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
        tuple(requests),
        np.concatenate(scores),
        np.concatenate(labels),
        np.concatenate(spaces),
        np.concatenate(groups) if groups else None,
    )


def _request_of(batch: Batch, selection: Selection) -> ScoreRequest:
    """Return a batch, without its padding, as a request for scores."""
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
    numbers = {each.name: batch.dense_BF[: batch.rows, f].numpy().copy() for f, each in enumerate(selection.dense)}
    return ScoreRequest(rows=batch.rows, ids=ids, dense=numbers)


def examples_of(rows: HeldOut, signature: Signature, encoder: Encoder, most: int) -> list[dict[str, Any]]:
    """Return users of a split and what they were shown, as requests for a ranking in raw values, with their labels.

    Args:
        rows: Rows of the split.
        signature: Signature of the model.
        encoder: Encoder that knows the raw values of table rows.
        most: Largest number of examples.
    """
    ends = np.cumsum([each.rows for each in rows.requests])
    users = rows.group_N is not None or bool(signature.of("user"))
    lists = _of_users(rows, signature) if users else _of_nobody(rows)
    fit = [own_N for own_N in lists if _FEWEST <= len(own_N) <= _MOST]
    chosen = fit or sorted(lists, key=len, reverse=True)
    examples = []
    for n, own_N in enumerate(chosen[:most], 1):
        shown = own_N[:_MOST].tolist()
        values = [_raw(rows, row, signature, encoder, ends) for row in shown]
        user = {each.name: values[0][each.name] for each in signature.of("user")}
        items = [{each.name: value[each.name] for each in signature.of("item")} for value in values]
        name = f"{rows.split} user {n}" if users else f"rows {shown[0]:,} to {shown[-1]:,}"
        named = next((user[key] for key in ("user_id", "user") if user.get(key) is not None), None)
        labels = [
            {
                task.name: float(rows.labels_NK[row, k]) if rows.in_space_NK[row, k] else None
                for k, task in enumerate(signature.tasks)
            }
            for row in shown
        ]
        title = name if named is None else f"user {named}"
        examples.append({"name": title, "request": {"user": user, "items": items}, "labels": labels})
    return examples


def _of_users(rows: HeldOut, signature: Signature) -> list[NDArray[np.int64]]:
    """Return the rows of each group; without groups, those of equal users, the first user first."""
    if rows.group_N is not None:
        cuts = np.flatnonzero(rows.group_N[1:] != rows.group_N[:-1]) + 1
        spans = np.split(np.arange(len(rows.group_N)), cuts)
        return [own_N for own_N in spans if len(own_N) and rows.group_N[own_N[0]] >= 0]
    values = rows.comparable()
    found: dict[tuple[Any, ...], list[int]] = {}
    for row, user in enumerate(zip(*(values[each.name].tolist() for each in signature.of("user")), strict=True)):
        found.setdefault(user, []).append(row)
    return [np.array(own) for own in found.values()]


def _of_nobody(rows: HeldOut) -> list[NDArray[np.int64]]:
    total = len(rows.labels_NK)
    return np.split(np.arange(total), np.arange(_UNGROUPED, total, _UNGROUPED)) if total else []


def _raw(rows: HeldOut, row: int, signature: Signature, encoder: Encoder, ends: NDArray[np.int64]) -> Mapping[str, Any]:
    """Return the raw values of one row."""
    part = int(np.searchsorted(ends, row, side="right"))
    request = rows.requests[part]
    i = row - (int(ends[part]) - request.rows)
    values: dict[str, Any] = {}
    for each in signature.sparse:
        ids = request.ids[each.name]
        if not each.bag:
            values[each.name] = encoder.values(each.name, [int(ids.values_V[i])])[0]
            continue
        begin, end = (i, i + 1) if ids.offsets_N is None else (int(ids.offsets_N[i]), int(ids.offsets_N[i + 1]))
        bag = encoder.values(each.name, ids.values_V[begin:end].tolist())
        values[each.name] = bag
        if each.weighted:
            assert ids.weights_V is not None
            values[each.name] = {"values": bag, "weights": [float(w) for w in ids.weights_V[begin:end]]}
    for each in signature.dense:
        x = float(request.dense[each.name][i])
        values[each.name] = None if np.isnan(x) else x
    return values


def _bags(part: Ids) -> list[tuple[Any, ...]]:
    assert part.offsets_N is not None
    offsets = part.offsets_N.tolist()
    values = part.values_V.tolist()
    weights = None if part.weights_V is None else part.weights_V.tolist()
    bags: list[tuple[Any, ...]] = []
    for begin, end in pairwise(offsets):
        own = None if weights is None else tuple(weights[begin:end])
        bags.append((tuple(values[begin:end]), own))
    return bags
