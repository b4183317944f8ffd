"""Slices of row groups -> one rank's Batch of fixed size, padded.

Every tensor is allocated once, at its final place, and filled by one copy per slice.

Shape suffixes: B batch (with padding), R its real rows, F single-valued features, K tasks, C slice columns.
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
from ple_rec.data.columns import Bag, Columns, Selection
from ple_rec.data.requests import once, requests_of


@dataclass(frozen=True)
class Slice:
    """Rows [start, stop) of `columns`."""

    columns: Columns
    start: int
    stop: int


def collate(slices: Sequence[Slice], selection: Selection, batch_size: int, *, pin: bool = False) -> Batch:
    """One batch of `batch_size` rows: the slices' rows in order, then padding.

    A padding row is in no task's sample space, has weight 0, dense 0 and no sparse id, so it touches no table.

    Args:
        slices: Of row groups, at most `batch_size` rows together.
        selection: What they hold.
        batch_size: B.
        pin: Put what goes to a device in page-locked memory.
    """
    rows = sum(part.stop - part.start for part in slices)

    def padded(name: str, tail: tuple[int, ...], dtype: torch.dtype, pin: bool = pin) -> Tensor:
        out = torch.empty((batch_size, *tail), dtype=dtype, pin_memory=pin)
        room = out.numpy()
        if slices:
            pieces = [getattr(part.columns, name)[part.start : part.stop] for part in slices]
            np.concatenate(pieces, out=room[:rows])
        room[rows:] = 0
        return out

    tasks = (len(selection.tasks),)
    starts_B = _starts_B(slices, batch_size, rows) if selection.requests else None
    sparse = _sparse(slices, selection, batch_size, rows, pin and starts_B is None) if selection.sparse else None
    if sparse is not None and starts_B is not None:
        shared = [feature.name in selection.requests for feature in selection.sparse]
        sparse = once(sparse, shared, starts_B, pin=pin)
    return Batch(
        sparse=sparse,
        dense_BF=padded("dense_ND", (len(selection.dense),), torch.float32),
        labels_BK=padded("labels_NK", tasks, torch.float32),
        in_space_BK=padded("in_space_NK", tasks, torch.float32),
        weight_B=None if selection.sample_weight is None else padded("weight_N", (), torch.float32),
        group_B=None if selection.group is None else padded("group_N", (), torch.int64),
        rows=rows,
        slices_BC=padded("slices_NC", (len(selection.slices),), torch.int16, pin=False) if selection.slices else None,
        requests=None if starts_B is None else requests_of(starts_B, pin=pin),
    )


def _starts_B(slices: Sequence[Slice], batch_size: int, rows: int) -> BoolArray:
    """Where requests begin; a slice begins one, and so does the padding."""
    starts_B, begin = np.zeros(batch_size, np.bool_), 0
    for part in slices:
        assert part.columns.starts_N is not None
        starts_B[begin : begin + part.stop - part.start] = part.columns.starts_N[part.start : part.stop]
        starts_B[begin : begin + 1] = True
        begin += part.stop - part.start
    starts_B[rows : rows + 1] = True
    return starts_B


def _sparse(slices: Sequence[Slice], selection: Selection, batch_size: int, rows: int, pin: bool) -> KeyedJaggedTensor:
    """The ids feature by feature: first the single-valued ones, a block of F x R, then the bags.

    Ids and lengths are int32. They travel between ranks as they are; FBGEMM's kernels widen what they look up.
    """
    features = len(selection.single)
    weighted = any(feature.weights for feature in selection.bags)
    pieces = [_Piece.of(part.columns.bags[i], part) for i in range(len(selection.bags)) for part in slices]
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
    first, begin = features * rows, 0
    for i, piece in enumerate(pieces):
        begin = 0 if i % len(slices) == 0 else begin
        end, last = begin + len(piece.lengths), first + len(piece.values)
        lengths_SB[features + i // len(slices), begin:end] = piece.lengths
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
    )


@dataclass(frozen=True)
class _Piece:
    """What a slice holds of one bag column."""

    lengths: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.int32]]
    weights: np.ndarray[Any, np.dtype[np.float32]] | None

    @classmethod
    def of(cls, bag: Bag, part: Slice) -> _Piece:
        offsets = bag.offsets[part.start : part.stop + 1]
        first, last = offsets[0], offsets[-1]
        return cls(np.diff(offsets), bag.values[first:last], None if bag.weights is None else bag.weights[first:last])
