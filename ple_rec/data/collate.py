"""Collation of rows of Parquet row groups into a `Batch` of one rank.

A batch has a fixed number of rows and may take them from several row groups. A `RowSlice` is the range of rows that it
takes from one of them. If the slices have too few rows, the last rows of the batch are padding. Each tensor of the
batch is allocated once, and the rows of each slice are copied into it once.

A request is a run of consecutive rows that are equal in the features `selection.requests` (`requests.py`). The ids of
these features are kept only in its first row, for which the ids of the batch are copied a second time.

A bag is a multi-valued feature, with any number of ids in a row. A history, the last events before a row, is one key
of the batch for each item of an event and one for the ages (`histories.py`). A slice column is a column by which an
evaluation divides the samples, such as the country (`slices.py`). It is unrelated to a `RowSlice`.

Shape suffixes: B rows of the batch (with padding), R rows of the batch without padding, N rows of a row group, F
single-valued features (in `dense_BF`: dense features), D dense features, W numbers of all vectors, S sparse features
(the single-valued ones, then the bags, then the columns of histories), V ids of the batch, K tasks, C slice columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.data.arrow import BoolArray, FloatArray, IdArray, IntArray
from ple_rec.data.batch import Batch
from ple_rec.data.columns import Columns, Selection
from ple_rec.data.histories import gather_histories
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
    starts_R = None if starts_B is None else starts_B[:rows]
    pin_ids = pin and starts_B is None
    sparse = _sparse(slices, selection, batch_size, rows, starts_R, pin=pin_ids) if selection.sparse else None
    if sparse is not None and starts_B is not None:
        shared = [feature.name in selection.shared_sparse for feature in selection.sparse]
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
    slices: Sequence[RowSlice],
    selection: Selection,
    batch_size: int,
    rows: int,
    starts_R: BoolArray | None,
    *,
    pin: bool,
) -> KeyedJaggedTensor:
    """Return the ids of the batch, feature by feature: first the single-valued features, then bags, then histories.

    The values begin with the ids of the single-valued features as a block of F x R, since each has one id in each row
    that is not padding. The ids of the other keys follow.

    Ids and lengths are int32 instead of int64, which halves the bytes that ranks exchange. FBGEMM's kernels convert the
    ids to int64 themselves.

    The number of ids of each feature is passed along, since TorchRec would otherwise sum the lengths on the device and
    wait for the result.
    """
    features = len(selection.single)
    weighted = any(feature.weights for feature in selection.bags)
    pieces = [*_bag_pieces(slices, selection), *_history_pieces(slices, selection, starts_R)]
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
    # `first` is the index in `values` of the piece's first id, `last` that after its last one.
    length_per_key = [rows] * features + [0] * (len(selection.sparse) - features)
    first = features * rows
    for piece in pieces:
        last = first + len(piece.values)
        lengths_SB[piece.key, piece.begin : piece.begin + len(piece.lengths)] = piece.lengths
        length_per_key[piece.key] += len(piece.values)
        values_V[first:last] = piece.values
        if weights_V is not None:
            weights_V[first:last] = 1 if piece.weights is None else piece.weights
        first = last
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
    """Ids of one key of the batch in consecutive rows.

    Args:
        key: Index of the key.
        begin: Index of the first row.
        lengths: Number of ids of each row.
        values: Ids of the rows.
        weights: Weight of each id, or None if all are 1.
    """

    key: int
    begin: int
    lengths: IntArray
    values: IdArray
    weights: FloatArray | None = None


def _bag_pieces(slices: Sequence[RowSlice], selection: Selection) -> Iterator[_Piece]:
    """Yield the ids of each bag, slice by slice."""
    for i in range(len(selection.bags)):
        begin = 0
        for part in slices:
            bag = part.columns.bags[i]
            offsets = bag.offsets[part.start : part.stop + 1]
            ids = slice(offsets[0], offsets[-1])
            weights = None if bag.weights is None else bag.weights[ids]
            yield _Piece(len(selection.single) + i, begin, np.diff(offsets), bag.values[ids], weights)
            begin += part.stop - part.start


def _history_pieces(slices: Sequence[RowSlice], selection: Selection, starts_R: BoolArray | None) -> Iterator[_Piece]:
    """Yield the ids of the columns of each history; a history that requests share is looked up once for each."""
    key = len(selection.single) + len(selection.bags)
    for i, history in enumerate(selection.histories if slices else ()):
        rows = [part.columns.histories[i].take(slice(part.start, part.stop)) for part in slices]
        lengths, columns = gather_histories(rows, starts_R if history.name in selection.requests else None)
        for ids in columns:
            yield _Piece(key, 0, lengths, ids)
            key += 1
