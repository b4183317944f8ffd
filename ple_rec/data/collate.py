"""Collation of rows of Parquet row groups into a `Batch` of one rank.

A batch has a fixed number of rows and may take them from several row groups. A `RowSlice` is the range of rows that it
takes from one of them. If the slices have too few rows, the last rows of the batch are padding. Each tensor of the
batch is allocated once, and the rows of each slice are copied into it once.

A request is a run of consecutive rows that are equal in the features `selection.requests` (`requests.py`). The ids of
these features are kept only in its first row, for which the ids of the batch are copied a second time.

A bag is a multi-valued feature, with any number of ids in a row. A slice column is a column by which an evaluation
divides the samples, such as the country (`slices.py`). It is unrelated to a `RowSlice`.

Shape suffixes: B rows of the batch (with padding), R rows of the batch without padding, N rows of a row group, F
single-valued features (in `dense_BF`: dense features), D dense features, W numbers of all vectors, S sparse features
(the single-valued features, then the bags), V ids of the batch, K tasks, C slice columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.data.arrow import BoolArray
from ple_rec.data.batch import Batch
from ple_rec.data.columns import BagColumn, Columns, Selection
from ple_rec.data.requests import build_requests, drop_repeated_ids


@dataclass(frozen=True)
class RowSlice:
    """Range of rows of one row group.

    Args:
        columns: Columns of the whole row group.
        start: Index of the first row of the range.
        stop: Index after the last row of the range.
    """

    columns: Columns
    start: int
    stop: int


def collate(slices: Sequence[RowSlice], selection: Selection, batch_size: int, *, pin: bool = False) -> Batch:
    """Return a batch of `batch_size` rows: the rows of the slices in order, then padding.

    A padding row is in the sample space of no task, and its sample weight, dense values and vectors are 0. It has no
    ids, so no row of an embedding table is read for it.

    Args:
        slices: Ranges of rows, with at most `batch_size` rows in all.
        selection: Selection of the columns that the slices have.
        batch_size: Number B of rows of the batch.
        pin: True to put the tensors that are later copied to a GPU in page-locked memory.
    """
    rows = sum(part.stop - part.start for part in slices)

    def padded(name: str, tail: tuple[int, ...], dtype: torch.dtype, pin: bool = pin) -> Tensor:
        """Return a tensor with the rows of an array of `Columns`, followed by zeros for the padding.

        Args:
            name: Name of the array in `Columns`.
            tail: Shape of one row.
            dtype: Type of the tensor.
            pin: True to put the tensor in page-locked memory.
        """
        out = torch.empty((batch_size, *tail), dtype=dtype, pin_memory=pin)
        array = out.numpy()
        if slices:
            pieces = [getattr(part.columns, name)[part.start : part.stop] for part in slices]
            np.concatenate(pieces, out=array[:rows])
        array[rows:] = 0
        return out

    tasks = (len(selection.tasks),)
    starts_B = _request_starts(slices, batch_size, rows) if selection.requests else None
    # With requests, the ids that go to a GPU are the copy by `drop_repeated_ids`, so the tensors here are not pinned.
    sparse = _sparse(slices, selection, batch_size, rows, pin and starts_B is None) if selection.sparse else None
    if sparse is not None and starts_B is not None:
        shared = [feature.name in selection.requests for feature in selection.sparse]
        sparse = drop_repeated_ids(sparse, shared, starts_B, pin=pin)
    return Batch(
        sparse=sparse,
        dense_BF=padded("dense_ND", (len(selection.dense),), torch.float32),
        labels_BK=padded("labels_NK", tasks, torch.float32),
        in_space_BK=padded("in_space_NK", tasks, torch.float32),
        weight_B=None if selection.sample_weight is None else padded("weight_N", (), torch.float32),
        group_B=None if selection.group is None else padded("group_N", (), torch.int64),
        rows=rows,
        subgroup_B=None if selection.subgroup is None else padded("subgroup_N", (), torch.int64),
        vectors_BW=_vectors(slices, selection, batch_size, pin) if selection.vectors else None,
        slices_BC=padded("slices_NC", (len(selection.slices),), torch.int16, pin=False) if selection.slices else None,
        requests=None if starts_B is None else build_requests(starts_B, pin=pin),
    )


def _vectors(slices: Sequence[RowSlice], selection: Selection, batch_size: int, pin: bool) -> Tensor:
    """Return the vectors of all features side by side; those of frozen tables are looked up here."""
    widths = [feature.width for feature in selection.vectors]
    vectors_BW = torch.zeros(batch_size, sum(widths), dtype=torch.float32, pin_memory=pin)
    array, begin = vectors_BW.numpy(), 0
    for part in slices:
        end, column = begin + part.stop - part.start, 0
        for vectors, width in zip(part.columns.vectors, widths, strict=True):
            vectors.copy_rows(slice(part.start, part.stop), array[begin:end, column : column + width])
            column += width
        begin = end
    return vectors_BW


def _request_starts(slices: Sequence[RowSlice], batch_size: int, rows: int) -> BoolArray:
    """Return a flag for each row of the batch, True if the row begins a request (`requests.py`).

    The first row of each slice begins a request, and so does the first row of the padding.
    """
    starts_B, begin = np.zeros(batch_size, np.bool_), 0
    for part in slices:
        assert part.columns.starts_N is not None
        starts_B[begin : begin + part.stop - part.start] = part.columns.starts_N[part.start : part.stop]
        starts_B[begin : begin + 1] = True
        begin += part.stop - part.start
    starts_B[rows : rows + 1] = True
    return starts_B


def _sparse(
    slices: Sequence[RowSlice], selection: Selection, batch_size: int, rows: int, pin: bool
) -> KeyedJaggedTensor:
    """Return the ids of the batch, feature by feature: first the single-valued features, then the bags.

    The values begin with the ids of the single-valued features as a block of F x R, since each has one id in each row
    that is not padding. The ids of the bags follow.

    Ids and lengths are int32 instead of int64, which halves the bytes that ranks exchange. FBGEMM's kernels convert the
    ids to int64 themselves.

    The number of ids of each feature is passed along, since TorchRec would otherwise sum the lengths on the device and
    wait for the result.
    """
    features = len(selection.single)
    weighted = any(feature.weights for feature in selection.bags)
    pieces = [_Piece.cut(part.columns.bags[i], part) for i in range(len(selection.bags)) for part in slices]
    count = features * rows + sum(len(piece.values) for piece in pieces)
    values = torch.empty(count, dtype=torch.int32, pin_memory=pin)
    lengths = torch.empty(len(selection.sparse) * batch_size, dtype=torch.int32, pin_memory=pin)
    weights = torch.empty(count, dtype=torch.float32, pin_memory=pin) if weighted else None

    values_V, lengths_SB = values.numpy(), lengths.numpy().reshape(len(selection.sparse), batch_size)
    weights_V = None if weights is None else weights.numpy()
    lengths_SB[:features, :rows] = 1
    lengths_SB[:, rows:] = 0
    ids_FR = values_V[: features * rows].reshape(features, rows)
    if slices:
        np.concatenate([part.columns.ids_FN[:, part.start : part.stop] for part in slices], axis=1, out=ids_FR)
    if weights_V is not None:
        weights_V[: features * rows] = 1
    # `first` is the index in `values` of the piece's first id, `begin` the row of the batch that is its first row.
    # `last` and `end` are the index and the row after its last ones.
    length_per_key = [rows] * features + [0] * len(selection.bags)
    first, begin = features * rows, 0
    for i, piece in enumerate(pieces):
        begin = 0 if i % len(slices) == 0 else begin
        end, last = begin + len(piece.lengths), first + len(piece.values)
        lengths_SB[features + i // len(slices), begin:end] = piece.lengths
        length_per_key[features + i // len(slices)] += len(piece.values)
        values_V[first:last] = piece.values
        if weights_V is not None:
            weights_V[first:last] = 1 if piece.weights is None else piece.weights
        begin, first = end, last
    return KeyedJaggedTensor(
        keys=[feature.name for feature in selection.sparse],
        values=values,
        weights=weights,
        lengths=lengths,
        stride=batch_size,
        length_per_key=length_per_key,
    )


@dataclass(frozen=True)
class _Piece:
    """Ids of one bag in the rows of one slice: the number of ids of each row, the ids and their weights."""

    lengths: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.int32]]
    weights: np.ndarray[Any, np.dtype[np.float32]] | None

    @classmethod
    def cut(cls, bag: BagColumn, part: RowSlice) -> _Piece:
        """Cut the rows of a slice out of a bag column of its row group."""
        offsets = bag.offsets[part.start : part.stop + 1]
        first, last = offsets[0], offsets[-1]
        return cls(np.diff(offsets), bag.values[first:last], None if bag.weights is None else bag.weights[first:last])
