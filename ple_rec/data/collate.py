"""Slices of row groups -> one rank's Batch of fixed size, padded.

Shape suffixes: B batch (with padding), R its real rows, F single-valued features, K tasks, C slice columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.data.batch import Batch
from ple_rec.data.columns import Columns, Selection


@dataclass(frozen=True)
class Slice:
    """Rows [start, stop) of `columns`."""

    columns: Columns
    start: int
    stop: int


def collate(slices: Sequence[Slice], selection: Selection, batch_size: int) -> Batch:
    """One batch of `batch_size` rows: the slices' rows in order, then padding.

    A padding row is in no task's sample space, has weight 0, dense 0 and no sparse id, so it touches no table.
    """
    rows = sum(part.stop - part.start for part in slices)
    dense = [part.columns.dense_ND[part.start : part.stop] for part in slices]
    labels = [part.columns.labels_NK[part.start : part.stop] for part in slices]
    spaces = [part.columns.in_space_NK[part.start : part.stop] for part in slices]
    weight = group = codes_BC = None
    if selection.sample_weight is not None:
        weight = _padded([_some(p.columns.weight_N)[p.start : p.stop] for p in slices], batch_size, (), np.float32)
    if selection.group is not None:
        group = _padded([_some(p.columns.group_N)[p.start : p.stop] for p in slices], batch_size, (), np.int64)
    if selection.slices:
        codes = [_some(part.columns.slices_NC)[part.start : part.stop] for part in slices]
        codes_BC = _padded(codes, batch_size, (len(selection.slices),), np.int16)
    tasks = len(selection.tasks)
    return Batch(
        sparse=_sparse(slices, selection, batch_size, rows) if selection.sparse else None,
        dense_BF=_padded(dense, batch_size, (len(selection.dense),), np.float32),
        labels_BK=_padded(labels, batch_size, (tasks,), np.float32),
        in_space_BK=_padded(spaces, batch_size, (tasks,), np.float32),
        weight_B=weight,
        group_B=group,
        rows=rows,
        slices_BC=codes_BC,
    )


def _some(array: np.ndarray | None) -> np.ndarray:
    assert array is not None
    return array


def _padded(pieces: Sequence[np.ndarray], size: int, tail: tuple[int, ...], dtype: type) -> Tensor:
    out: np.ndarray = np.zeros((size, *tail), dtype)
    begin = 0
    for piece in pieces:
        out[begin : begin + len(piece)] = piece
        begin += len(piece)
    return torch.from_numpy(out)


def _sparse(slices: Sequence[Slice], selection: Selection, batch_size: int, rows: int) -> KeyedJaggedTensor:
    features = len(selection.single)
    weighted = any(feature.weights for feature in selection.bags)
    lengths = np.zeros((len(selection.sparse), batch_size), np.int64)
    lengths[:features, :rows] = 1
    ids_FR = np.empty((features, rows), np.int64)
    begin = 0
    for part in slices:
        end = begin + part.stop - part.start
        ids_FR[:, begin:end] = part.columns.ids_FN[:, part.start : part.stop]
        for i, bag in enumerate(part.columns.bags):
            lengths[features + i, begin:end] = np.diff(bag.offsets[part.start : part.stop + 1])
        begin = end
    values, weights = [ids_FR.reshape(-1)], [np.ones(ids_FR.size if weighted else 0, np.float32)]
    for i in range(len(selection.bags)):
        for part in slices:
            bag = part.columns.bags[i]
            first, last = bag.offsets[part.start], bag.offsets[part.stop]
            values.append(bag.values[first:last])
            if weighted:
                weights.append(np.ones(last - first, np.float32) if bag.weights is None else bag.weights[first:last])
    return KeyedJaggedTensor(
        keys=[feature.name for feature in selection.sparse],
        values=torch.from_numpy(np.concatenate(values)),
        weights=torch.from_numpy(np.concatenate(weights)) if weighted else None,
        lengths=torch.from_numpy(lengths.reshape(-1)),
        stride=batch_size,
    )
