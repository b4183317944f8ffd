"""Rows of a held-out split as an export needs them: in table rows, as raw values, and as requests.

Raw values come from the dataset's files and not from those of the export: if the export had mixed up a vocabulary, its
own values would still come back unharmed. A row that unknown values share has no raw value in the dataset; the export's
encoder makes one up.

Shape suffixes: N rows, K tasks, V values of a feature in them, U different ones of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ple_rec.config.base import Split
from ple_rec.config.schema import VOCAB_DIR
from ple_rec.data.batch import Batch
from ple_rec.data.columns import Selection
from ple_rec.data.encode import Encoder, RawFeature
from ple_rec.inference.feature_parsing import Ids
from ple_rec.inference.request import ScoreRequest
from ple_rec.inference.signature import Signature
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet
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


class RawValues:
    """Raw values of one sparse feature of held-out rows.

    Args:
        ids: Table rows of the feature.
        dataset: Directory of the dataset.
        raw: Feature, as the encoder of the export has it.
        encoder: Encoder of the export.
    """

    def __init__(self, ids: Ids, dataset: Location, raw: RawFeature, encoder: Encoder) -> None:
        rows_U, place_V = np.unique(ids.values_V, return_inverse=True)
        self._places = replace(ids, values_V=place_V.astype(np.int32))
        values = _values_of(raw, dataset, rows_U)
        shared = [u for u, row in enumerate(rows_U.tolist()) if row and values[u] is None]
        for u, value in zip(shared, encoder.values(raw.feature.name, rows_U[shared].tolist()), strict=True):
            values[u] = value
        self._raw_U = np.empty(len(rows_U), object)
        self._raw_U[:] = values

    def of_rows(self, rows_N: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the values of some rows, one after the other; None of row 0, and where no value is known."""
        return self._raw_U[self._places.take(rows_N).values_V]

    def column(self, rows_N: NDArray[np.int64]) -> list[Any]:
        """Return the values of some rows as a request has them."""
        flat: list[Any] = self.of_rows(rows_N).tolist()
        own = self._places.take(rows_N)
        if own.offsets_N is None:
            return flat
        spans = [slice(begin, end) for begin, end in pairwise(own.offsets_N.tolist())]
        if own.weights_V is None:
            return [flat[span] for span in spans]
        weights = own.weights_V.tolist()
        return [{"values": flat[span], "weights": weights[span]} for span in spans]

    def first_rows(self, rows_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return of some rows those that have a value which none before them has."""
        own = self._places.take(rows_N)
        _, first_V = np.unique(own.values_V, return_index=True)
        return rows_N[first_V if own.offsets_N is None else np.searchsorted(own.offsets_N, first_V, side="right") - 1]


class RawHeldOutRows:
    """Held-out rows in raw values.

    Args:
        rows: Held-out rows in table rows.
        signature: Signature of the model.
        dataset: Directory of the dataset.
        encoder: Encoder of the export.
    """

    def __init__(self, rows: HeldOut, signature: Signature, dataset: Location, encoder: Encoder) -> None:
        self.rows, self._dense = rows, [each.name for each in signature.dense]
        self.sparse = {
            each.name: RawValues(rows.ids[each.name], dataset, encoder.features[each.name], encoder)
            for each in signature.sparse
        }

    def columns(self, rows_N: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return the values of some rows, feature by feature, as a request has them."""
        columns = {name: values.column(rows_N) for name, values in self.sparse.items()}
        for name in self._dense:
            columns[name] = [None if np.isnan(x) else x for x in self.rows.dense[name][rows_N].tolist()]
        return columns


def _values_of(raw: RawFeature, dataset: Location, rows_U: NDArray[np.int32]) -> list[Any]:
    """Return the raw value of each row of a table; None of row 0, and of rows that the dataset has none for."""
    file = dataset / VOCAB_DIR / f"{raw.table.name}.parquet"
    if raw.kind == "number" or not file.exists():
        return Encoder(dataset, [raw.feature]).values(raw.feature.name, rows_U.tolist())
    values: list[Any] = [None] * int(np.searchsorted(rows_U, 1))
    first = 1
    with open_parquet(file) as vocabulary:
        for batch in vocabulary.iter_batches(columns=["raw"]):
            begin, end = np.searchsorted(rows_U, [first, first + len(batch)])
            values += batch.column("raw").take(pa.array(rows_U[begin:end] - first)).to_pylist()
            first += len(batch)
    return values + [None] * (len(rows_U) - len(values))


_FEWEST, _MOST = 5, 60  # rows of an example, where there are such
_UNGROUPED = 40  # rows of an example where there are no groups, and a row holds all features


def examples_of(raw: RawHeldOutRows, signature: Signature, most: int) -> list[dict[str, Any]]:
    """Return users of a split and what they were shown, as requests for a ranking in raw values, with their labels.

    Args:
        raw: Rows of the split.
        signature: Signature of the model.
        most: Largest number of examples.
    """
    rows = raw.rows
    users = rows.group_N is not None or bool(signature.of("user"))
    lists = _of_users(rows, signature) if users else _of_nobody(rows)
    fit = [own_N for own_N in lists if _FEWEST <= len(own_N) <= _MOST]
    chosen = fit or sorted(lists, key=len, reverse=True)
    examples = []
    for n, own_N in enumerate(chosen[:most], 1):
        shown_N = own_N[:_MOST]
        columns = raw.columns(shown_N)
        user = {each.name: columns[each.name][0] for each in signature.of("user")}
        items = [{each.name: columns[each.name][i] for each in signature.of("item")} for i in range(len(shown_N))]
        name = f"{rows.split} user {n}" if users else f"rows {shown_N[0]:,} to {shown_N[-1]:,}"
        named = next((user[key] for key in ("user_id", "user") if user.get(key) is not None), None)
        labels = [
            {
                task.name: float(rows.labels_NK[row, k]) if rows.in_space_NK[row, k] else None
                for k, task in enumerate(signature.tasks)
            }
            for row in shown_N.tolist()
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
    lists: dict[tuple[Any, ...], list[int]] = {}
    for row, user in enumerate(zip(*(values[each.name].tolist() for each in signature.of("user")), strict=True)):
        lists.setdefault(user, []).append(row)
    return [np.array(own) for own in lists.values()]


def _of_nobody(rows: HeldOut) -> list[NDArray[np.int64]]:
    return np.split(np.arange(len(rows)), range(_UNGROUPED, len(rows), _UNGROUPED)) if len(rows) else []
