"""Rows of a held-out split, against which an exported model is checked: as table rows, raw values and requests.

`export` reads them by `read_held_out`; `build_examples` (`examples.py`) makes requests from them.

A raw value is the value of a sparse feature in the logs and in requests. Its table row is the index of its embedding in
the feature's table; the dataset stores this index instead of the raw value. Row 0 stands for missing values and, in
some tables, for unknown values, which are raw values without a row of their own. Other tables have further rows that
unknown values share by their hash.

The raw values are read from the vocabularies of the dataset. The export has a copy of these, and a check against that
copy could not show that it is wrong. A table row that unknown values share has no raw value in the dataset, so the
encoder of the export invents one.

Shape suffixes: N rows, B rows of a batch, F dense features, K tasks, V values of one sparse feature in these rows, U
distinct table rows of one sparse feature. `offsets_N` has N + 1 entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ple_rec.config.base import Split
from ple_rec.config.schema import VOCAB_DIR, age_table
from ple_rec.data.batch import Batch
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory, read_columns
from ple_rec.data.encode import Encoder, RawFeature
from ple_rec.inference.feature_parsing import FeatureIds
from ple_rec.inference.history_parsing import AGE
from ple_rec.inference.request import ScoreRequest
from ple_rec.inference.signature import EventList, InputFeature, Signature
from ple_rec.storage import Location
from ple_rec.storage.arrow import open_parquet
from ple_rec.training.context import EvaluationContext
from ple_rec.training.scores import binary_mask, scores_from_logits


@dataclass(frozen=True)
class HeldOutRows:
    """First rows of a split in file order, with the scores of the trained model.

    Args:
        split: Name of the split.
        ids: Table rows of each sparse feature and of each column of a history, by its name.
        dense: Numbers of each dense feature (N,) and of each vector (N, width), by its name; NaN stands for a missing
            number or vector.
        batch_rows: Number of rows of each batch that the trained model scored; the last batch may have fewer.
        scores_NK: Scores of the trained model: probabilities of binary tasks, predictions of regressions.
        labels_NK: Labels; 0 if the row is outside of the task's sample space.
        in_space_NK: True if the row is in the task's sample space, the rows that count in its loss.
        group_N: Id of each row's group, which is usually a user; -1 for a row without a group. Rows of a group follow
            one another. None for a dataset without groups.
        frozen_rows: Rows of frozen tables, by name of the vector feature; 0 for a missing vector.
    """

    split: Split
    ids: Mapping[str, FeatureIds]
    dense: Mapping[str, NDArray[np.float32]]
    batch_rows: int
    scores_NK: NDArray[np.float32]
    labels_NK: NDArray[np.float32]
    in_space_NK: NDArray[np.bool_]
    group_N: NDArray[np.int64] | None
    frozen_rows: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows, N."""
        return len(self.labels_NK)

    def requests(self) -> Iterator[ScoreRequest]:
        """Yield one request for scores for each batch that the trained model scored.

        Scores in fp32 may depend on the batch size in their last bits, so the batches have to be the same.
        """
        for index_B in np.split(np.arange(len(self)), range(self.batch_rows, len(self), self.batch_rows)):
            ids = {name: each.take(index_B) for name, each in self.ids.items()}
            dense = {name: x_N[index_B] for name, x_N in self.dense.items()}
            yield ScoreRequest(rows=len(index_B), ids=ids, dense=dense)

    def constant_within_groups(self) -> tuple[str, ...]:
        """Return the names of the features that never change within a group.

        The result is empty if the dataset has no groups, or no group has two rows to compare.
        """
        if self.group_N is None:
            return ()
        # Rows of a group follow one another, so it is enough to compare each row with the one before it.
        same_N = (self.group_N[1:] == self.group_N[:-1]) & (self.group_N[1:] >= 0)
        if not same_N.any():
            return ()
        return tuple(name for name, x_N in self.comparison_keys().items() if (x_N[1:] == x_N[:-1])[same_N].all())

    def comparison_keys(self) -> dict[str, NDArray[Any]]:
        """Return an array for each feature, by name, in which two rows' entries are equal if their values are."""
        sparse = {name: ids.values_V if ids.offsets_N is None else _bag_keys(ids) for name, ids in self.ids.items()}
        # NaN differs from itself, so infinity stands for a missing number.
        dense = {name: np.where(np.isnan(x_N), np.float32(np.inf), x_N) for name, x_N in self.dense.items()}
        # The bytes of a vector are compared as one value.
        return sparse | {name: x_N if x_N.ndim == 1 else _bytes_of_rows(x_N) for name, x_N in dense.items()}


@torch.no_grad()
def read_held_out(context: EvaluationContext, split: Split, wanted_rows: int) -> HeldOutRows:
    """Return the first rows of a split with the scores of the trained model.

    Args:
        context: Context of an evaluation with loaded weights. Its batches are not grouped by request, so each sparse
            feature has one entry for each row.
        split: Name of the split.
        wanted_rows: Number of rows to read, rounded up to whole batches; a split with fewer rows is read completely.
    """
    binary_K = binary_mask(context.selection.tasks)
    columns_by_batch, scores, labels, in_space, groups, count = [], [], [], [], [], 0
    context.model.eval()
    with closing(context.evaluation_loader(split).epoch(0)) as batches:
        for batch in batches:
            logits_BK = context.model(batch.to(context.ranks.device))[0][: batch.rows]
            columns_by_batch.append(_read_columns(batch, context.selection))
            scores.append(scores_from_logits(logits_BK, binary_K).numpy())
            labels.append(batch.labels_BK[: batch.rows].numpy().copy())
            in_space.append(batch.in_space_BK[: batch.rows].numpy() > 0)
            if batch.group_B is not None:
                groups.append(batch.group_B[: batch.rows].numpy().copy())
            count += batch.rows
            if count >= wanted_rows:
                break
    frozen = [each.name for each in context.selection.vectors if each.table is not None]
    return HeldOutRows(
        split,
        {
            each.name: _concatenate_ids([ids[each.name] for ids, _ in columns_by_batch])
            for each in context.selection.sparse
        },
        {
            each.name: np.concatenate([dense[each.name] for _, dense in columns_by_batch])
            for each in (*context.selection.dense, *context.selection.vectors)
        },
        len(scores[0]),
        np.concatenate(scores),
        np.concatenate(labels),
        np.concatenate(in_space),
        np.concatenate(groups) if groups else None,
        {name: _read_frozen_rows(context.dataset, split, name, count) for name in frozen},
    )


def _read_frozen_rows(dataset: DatasetDirectory, split: Split, name: str, count: int) -> NDArray[np.int32]:
    """Return the rows of a frozen table for the first `count` rows of a split, in file order."""
    columns: list[NDArray[np.int32]] = []
    for group in dataset.row_groups(split, [name]):
        columns.append(read_columns(group, [name])[name].to_numpy().astype(np.int32))
        if sum(map(len, columns)) >= count:
            break
    return np.concatenate(columns)[:count]


def _bytes_of_rows(x_NW: NDArray[np.float32]) -> NDArray[Any]:
    """Return the bytes of each row of a matrix as one value."""
    return np.ascontiguousarray(x_NW).view(np.dtype((np.void, x_NW.itemsize * x_NW.shape[1])))[:, 0]


def _read_columns(batch: Batch, selection: Selection) -> tuple[dict[str, FeatureIds], dict[str, NDArray[np.float32]]]:
    """Return the sparse and the dense features of a batch by name, without the rows that only pad the batch."""
    ids = {}
    columns = {} if batch.sparse is None else batch.sparse.to_dict()
    for feature in selection.sparse:
        column = columns[feature.name]
        lengths_N = column.lengths()[: batch.rows].numpy().astype(np.int64)
        count = int(lengths_N.sum())
        ids[feature.name] = FeatureIds(
            column.values()[:count].numpy().astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths_N)]) if feature.bag else None,
            column.weights()[:count].numpy().copy() if feature.weights is not None else None,
        )
    dense = {each.name: batch.dense_BF[: batch.rows, f].numpy().copy() for f, each in enumerate(selection.dense)}
    begin = 0
    for each in selection.vectors:
        assert batch.vectors_BW is not None
        dense[each.name] = batch.vectors_BW[: batch.rows, begin : begin + each.width].numpy().copy()
        begin += each.width
    return ids, dense


def _concatenate_ids(parts: Sequence[FeatureIds]) -> FeatureIds:
    """Concatenate the rows of one sparse feature from several batches."""
    offsets = [part.offsets_N for part in parts if part.offsets_N is not None]
    weights = [part.weights_V for part in parts if part.weights_V is not None]
    lengths_N = np.concatenate([np.diff(each) for each in offsets]) if offsets else None
    return FeatureIds(
        np.concatenate([part.values_V for part in parts]),
        None if lengths_N is None else np.concatenate([[0], np.cumsum(lengths_N)]),
        np.concatenate(weights) if weights else None,
    )


def _bag_keys(ids: FeatureIds) -> NDArray[Any]:
    """Return a tuple for each bag of a column of bags: its values, followed by the tuple of its weights, or by None."""
    assert ids.offsets_N is not None
    values = ids.values_V.tolist()
    weights = None if ids.weights_V is None else ids.weights_V.tolist()
    bags = np.empty(len(ids.offsets_N) - 1, object)
    for i, (begin, end) in enumerate(pairwise(ids.offsets_N.tolist())):
        bags[i] = (*values[begin:end], None if weights is None else tuple(weights[begin:end]))
    return bags


class RawValues:
    """Raw values of one sparse feature, or of one column of a history, in the held-out rows.

    Args:
        ids: Table rows of the feature.
        read_values: Function that returns a raw value for each of some distinct table rows, in ascending order; None
            for a row without a raw value.
    """

    def __init__(self, ids: FeatureIds, read_values: Callable[[NDArray[np.int32]], list[Any]]) -> None:
        rows_U, index_V = np.unique(ids.values_V, return_inverse=True)
        # The same bags, with an index of `_raw_U` in place of each table row.
        self._value_indices = replace(ids, values_V=index_V.astype(np.int32))
        self._raw_U = np.empty(len(rows_U), object)
        self._raw_U[:] = read_values(rows_U)

    def flat_values(self, rows_N: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the raw values of some held-out rows in one array, bag after bag.

        A value is None if its table row is 0, or if the dataset has no raw value for the row and none was invented.

        Args:
            rows_N: Indices of the held-out rows.
        """
        return self._raw_U[self._value_indices.take(rows_N).values_V]

    def column(self, rows_N: NDArray[np.int64]) -> list[Any]:
        """Return the raw values of some held-out rows in the form of a request, one entry for each row.

        Args:
            rows_N: Indices of the held-out rows.
        """
        flat: list[Any] = self.flat_values(rows_N).tolist()
        ids = self._value_indices.take(rows_N)
        if ids.offsets_N is None:
            return flat
        spans = [slice(begin, end) for begin, end in pairwise(ids.offsets_N.tolist())]
        if ids.weights_V is None:
            return [flat[span] for span in spans]
        weights = ids.weights_V.tolist()
        return [{"values": flat[span], "weights": weights[span]} for span in spans]

    def first_rows(self, rows_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of the first row that has a value, for each distinct value in some held-out rows.

        The result has a row several times if several values of its bag occur there first.

        Args:
            rows_N: Indices of the held-out rows.
        """
        ids = self._value_indices.take(rows_N)
        _, first_V = np.unique(ids.values_V, return_index=True)
        return rows_N[first_V if ids.offsets_N is None else np.searchsorted(ids.offsets_N, first_V, side="right") - 1]


class RawHeldOutRows:
    """Held-out rows as raw values.

    Args:
        rows: Held-out rows as table rows.
        signature: Inputs and tasks of the exported model.
        dataset: Directory of the dataset.
        encoder: Encoder of the export, which invents values for table rows that unknown values share.

    Attributes:
        values: Raw values of each sparse feature and of each column of a history, by its name.
        keyed: Names of the vector features whose values are keys of their frozen tables. A dated table has several
            vectors of a key, so vectors of such a table are lists.
    """

    def __init__(self, rows: HeldOutRows, signature: Signature, dataset: Location, encoder: Encoder) -> None:
        self.rows, self._signature = rows, signature
        features = {each.name: each.name for each in signature.sparse}
        self.values: dict[str, RawValues] = {}
        for history in signature.histories:
            assert history.events is not None
            features |= {f"{history.name}.{item.name}": item.name for item in history.events.items}
            ages = age_table(history.name)
            self.values[ages] = RawValues(rows.ids[ages], partial(_example_ages, history.events))
        for column, feature in features.items():
            read_values = partial(_raw_values, dataset, encoder, feature)
            self.values[column] = RawValues(rows.ids[column], read_values)
        tables = DatasetDirectory(dataset).vector_tables if rows.frozen_rows else {}
        keyed = (each.name for each in signature.vectors if each.type != "number")
        self.keyed = tuple(name for name in keyed if (table := tables[name].feature.table) and not table.dated)
        self._keys = {name: tables[name].keys().column(0) for name in self.keyed}

    def columns(self, rows_N: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return the values of some held-out rows in the form of a request: a list for each feature, by its name.

        Args:
            rows_N: Indices of the held-out rows.
        """
        columns = {each.name: self.values[each.name].column(rows_N) for each in self._signature.sparse}
        for each in self._signature.dense:
            columns[each.name] = [None if np.isnan(x) else x for x in self.rows.dense[each.name][rows_N].tolist()]
        for name in (each.name for each in self._signature.vectors):
            if name in self.keyed:
                frozen_rows_N = self.rows.frozen_rows[name][rows_N]
                columns[name] = self._keys[name].take(pa.array(frozen_rows_N - 1, mask=frozen_rows_N == 0)).to_pylist()
            else:
                columns[name] = [None if np.isnan(x[0]) else x for x in self.rows.dense[name][rows_N].tolist()]
        for each in self._signature.histories:
            columns[each.name] = self._events(each, rows_N)
        return columns

    def _events(self, history: InputFeature, rows_N: NDArray[np.int64]) -> list[list[dict[str, Any]]]:
        """Return the events of a history in some held-out rows, a list for each row."""
        assert history.events is not None
        names = [*(item.name for item in history.events.items), AGE]
        lists = [self.values[column.name].column(rows_N) for column in history.table_columns]
        return [
            [dict(zip(names, values, strict=True)) for values in zip(*row, strict=True)]
            for row in zip(*lists, strict=True)
        ]


def _raw_values(dataset: Location, encoder: Encoder, feature: str, rows_U: NDArray[np.int32]) -> list[Any]:
    """Return a raw value for each table row; unknown values are invented for rows that they share."""
    values = _read_raw_values(encoder.features[feature], dataset, rows_U)
    # Unknown values share the table rows, other than row 0, for which the dataset has no raw value.
    shared = [u for u, row in enumerate(rows_U.tolist()) if row and values[u] is None]
    for u, value in zip(shared, encoder.example_values(feature, rows_U[shared].tolist()), strict=True):
        values[u] = value
    return values


def _example_ages(events: EventList, rows_U: NDArray[np.int32]) -> list[Any]:
    """Return the smallest age of each bucket, so that the ages of a history do not grow, as its buckets do not."""
    smallest = [0, *events.age_edges]
    return [smallest[row - 1] for row in rows_U.tolist()]


def _read_raw_values(raw: RawFeature, dataset: Location, rows_U: NDArray[np.int32]) -> list[Any]:
    """Return a raw value for each table row; None for row 0 and for rows without a raw value in the dataset.

    Args:
        raw: Feature and the kind of its raw values.
        dataset: Directory of the dataset.
        rows_U: Distinct table rows in ascending order.
    """
    file = dataset / VOCAB_DIR / f"{raw.table.name}.parquet"
    if raw.kind == "number" or not file.exists():
        return Encoder(dataset, [raw.feature]).example_values(raw.feature.name, rows_U.tolist())
    # The vocabulary file has no entry for row 0: its first entry is the value of row 1.
    values: list[Any] = [None] * int(np.searchsorted(rows_U, 1))
    first = 1
    with open_parquet(file) as vocabulary:
        for batch in vocabulary.iter_batches(columns=["raw"]):
            begin, end = np.searchsorted(rows_U, [first, first + len(batch)])
            values += batch.column("raw").take(pa.array(rows_U[begin:end] - first)).to_pylist()
            first += len(batch)
    return values + [None] * (len(rows_U) - len(values))
